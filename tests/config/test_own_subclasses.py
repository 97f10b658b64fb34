"""A user's subclass of what is built in keeps its settings: no field of theirs insists on the built-in name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from distmeta.loading import load_config
from distmeta.models import MODELS
from distmeta.objectives import OBJECTIVES
from distmeta.outer import OUTER
from distmeta.tasks import TASKS

TABLES: dict[str, Any] = {"kind": [TASKS, MODELS], "name": [OUTER, OBJECTIVES]}
ENTRIES = [
    pytest.param(field, options, id=f"{options.__name__}")
    for field, tables in TABLES.items()
    for table in tables
    for options in table.options.values()
]


@pytest.mark.parametrize(("field", "options"), ENTRIES)
def test_settings_take_another_name(field: str, options: Any) -> None:
    annotation = options.model_fields[field].annotation
    assert TypeAdapter(annotation).validate_python("module:mine.Own") == "module:mine.Own"


def test_a_subclass_of_a_built_in_environment_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_navigation.py").write_text(
        "from distmeta.tasks.environments.navigation import Navigation\nclass Own(Navigation):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config(
        {"tasks": {"kind": "module:user_navigation.Own"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml_vpg"}}
    )
    assert config.tasks.kind == "module:user_navigation.Own"
