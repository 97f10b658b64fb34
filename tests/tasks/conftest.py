from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from task_helpers import NEEDED, episodes

from distmeta.tasks import TASKS
from distmeta.tasks.base import TaskFamily

Open = Callable[..., TaskFamily]


WITH_NAMED_INPUTS = ("text", "clinc150")
"""They have tests of their own: test_texts.py."""


@pytest.fixture(params=[kind for kind in TASKS if kind not in WITH_NAMED_INPUTS])
def open_any(request: pytest.FixtureRequest) -> Open:
    """Opens each family of one input in turn; keywords are those of :func:`episodes`."""
    return opener(request.param, request)


@pytest.fixture(params=["glyphs", "omniglot"])
def open_images(request: pytest.FixtureRequest) -> Open:
    """Opens each image family in turn."""
    return opener(request.param, request)


def opener(kind: str, request: pytest.FixtureRequest) -> Open:
    given = NEEDED.get(kind, {})
    if kind == "omniglot":
        given = {"root": str(request.getfixturevalue("omniglot"))}

    def open_family(**sizes: int) -> TaskFamily:
        options = TASKS[kind].Options(kind=kind, **given)
        if kind == "sinusoid":
            sizes = {**sizes, "ways": None}
        return TASKS[kind](options, episodes(**sizes), torch.device("cpu"))

    return open_family
