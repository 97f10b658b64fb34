"""Runs that tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import FAMILIES, parameters, train
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """A run in this process that nothing disturbed."""

    folder: Path
    result: dict[str, Any]
    parameters: dict[str, Tensor]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The undisturbed run of a family, computed once."""
    known: dict[str, Reference] = {}

    def undisturbed(family: str) -> Reference:
        if family not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / family
            result = train(folder, FAMILIES[family])
            known[family] = Reference(folder, result, parameters(folder))
        return known[family]

    return undisturbed
