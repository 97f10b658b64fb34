from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_files import class_folders, split_folders
from task_helpers import NEEDED, episodes

from distmeta.tasks import TASKS
from distmeta.tasks.base import TaskFamily
from distmeta.tasks.options import EnvironmentOptions

Open = Callable[..., TaskFamily]


ENVIRONMENTS = [kind for kind, options in TASKS.options.items() if issubclass(options, EnvironmentOptions)]
WITH_NAMED_INPUTS = ("text", "clinc150")
"""They have tests of their own: test_texts.py."""


@pytest.fixture(params=[kind for kind in TASKS if kind not in {*WITH_NAMED_INPUTS, *ENVIRONMENTS}])
def open_any(request: pytest.FixtureRequest) -> Open:
    """Opens each family of one input in turn; keywords are those of :func:`episodes`."""
    return opener(request.param, request)


@pytest.fixture(params=["glyphs", "omniglot"])
def open_images(request: pytest.FixtureRequest) -> Open:
    """Opens each family of characters in turn."""
    return opener(request.param, request)


@pytest.fixture(scope="session")
def made_up_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with the names of the published data sets, and small images that are made up."""
    base = tmp_path_factory.mktemp("images")
    for name in ("images", "mini_imagenet", "tiered_imagenet", "cifar_fs"):
        split_folders(base / name)
    class_folders(base / "cub" / "CUB_200_2011" / "images", {f"{n:03}.Bird_{n}": 20 for n in range(1, 25)})
    return base


def opener(kind: str, request: pytest.FixtureRequest) -> Open:
    given = NEEDED.get(kind, {})
    if kind == "omniglot":
        given = {"root": str(request.getfixturevalue("omniglot"))}
    elif kind in ("images", "cifar_fs", "mini_imagenet", "tiered_imagenet", "cub"):
        given = {"root": str(request.getfixturevalue("made_up_images") / kind), "size": 20}

    options = TASKS[kind].Options(kind=kind, **given)

    def open_family(**sizes: int) -> TaskFamily:
        if kind in ("sinusoid", "table"):
            sizes = {**sizes, "ways": None}
        return TASKS[kind](options, episodes(**sizes), torch.device("cpu"))

    open_family.options = options  # type: ignore[attr-defined]
    return open_family
