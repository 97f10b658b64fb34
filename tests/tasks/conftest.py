from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from task_helpers import ARCHIVES, episodes

from distmeta.tasks import TASKS
from distmeta.tasks.base import TaskFamily

Open = Callable[..., TaskFamily]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this session's own, so that tests build what they use, once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The folder with the real archives: in DISTMETA_DATA, or in shared/data beside the repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    for base in filter(None, [os.environ.get("DISTMETA_DATA"), str(beside)]):
        for folder in (Path(base), Path(base, "omniglot")):
            if all((folder / name).is_file() for name in ARCHIVES):
                return folder
    pytest.skip(f"the Omniglot archives are neither in DISTMETA_DATA nor in {beside}")


@pytest.fixture(params=list(TASKS))
def open_any(request: pytest.FixtureRequest) -> Open:
    """Opens each family of the table in turn; keywords are those of :func:`episodes`."""
    return opener(request.param, request)


@pytest.fixture(params=["glyphs", "omniglot"])
def open_images(request: pytest.FixtureRequest) -> Open:
    """Opens each image family in turn."""
    return opener(request.param, request)


def opener(kind: str, request: pytest.FixtureRequest) -> Open:
    given = {"root": str(request.getfixturevalue("omniglot_root"))} if kind == "omniglot" else {}

    def open_family(**sizes: int) -> TaskFamily:
        options = TASKS[kind].Options(kind=kind, **given)
        if kind == "sinusoid":
            sizes = {**sizes, "ways": None}
        return TASKS[kind](options, episodes(**sizes), torch.device("cpu"))

    return open_family
