"""A plan written into a configuration's file: that section, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from distmeta.config.text import parse_yaml
from distmeta.core.plan import Plan
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.runs.plan_file import check_target, with_engine, write_engine

PLAN = Plan(chunk=4, layers="native", compile="graph")
REST = "tasks: {kind: glyphs}\nmodel: {kind: conv4}\nalgorithm: {name: maml}\n"
WRITTEN = {
    "none": REST,
    "no line end": REST.rstrip("\n"),
    "flow": "engine: {chunk: 2}\n" + REST,
    "flow over lines": "engine: {chunk: 2,\n  compile: none,\n}\n" + REST,
    "block": "engine:\n  chunk: 2\n\n  # mine\n  compile: none\n" + REST,
    "last": REST + "engine:\n    layers: general",
    "quoted": REST + '"engine": {chunk: 2}\n',
    "single quotes": "'engine':\n  chunk: 2\n" + REST,
    "spaces before the colon": "engine : {chunk: 2}\n" + REST,
    "comment on the line": "engine: # mine\n  chunk: 2 # two\n" + REST,
    "in a block scalar": "name: |-\n  engine\n" + REST + "engine: {chunk: 2}\n",
    "text like it": "# engine: {chunk: 2}\n" + REST + "evaluation: {tasks: 10} # engine:\n",
    "CRLF": ("engine:\n  chunk: 2\n" + REST).replace("\n", "\r\n"),
    "indented": "  engine:\n    chunk: 2\n" + "".join(f"  {line}\n" for line in REST.splitlines()),
    "document marks": "---\nengine: {chunk: 2}\n" + REST + "...\n",
    "empty section": "engine: {}\n" + REST,
    "anchor of its own": "engine: &e {chunk: 2}\n" + REST,
    "byte order mark": "\ufeffengine: {chunk: 2}\n" + REST,
    "null": "engine: {chunk: auto}\n\n\n" + REST,
    "a key of a question": "? engine\n: {chunk: 2}\n" + REST,
    "an alias": "run: &r {}\n" + REST + "engine: *r\n",
    "nested of this name": REST + "run: {name: {engine: 1}}\n",
}


@pytest.mark.parametrize("name", list(WRITTEN))
def test_the_section_and_nothing_else(name: str) -> None:
    text = WRITTEN[name]
    written = with_engine(text, PLAN)
    assert parse_yaml(written, "it") == {**parse_yaml(text, "it"), "engine": PLAN.settings()}
    assert written.count("chunk: 4") == 1
    assert ("\r\n" in written) == ("\r\n" in text)
    assert written.replace("\r\n", "").count("\r") == 0


REFUSED = {
    "an alias elsewhere": "engine: &e {chunk: 2}\n" + REST + "outer: *e\n",
    "flow all over": "{tasks: {kind: sinusoid}, engine: {chunk: 2}}",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_exchanged_alone_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(REFUSED[name])
    with pytest.raises(ConfigError, match=r"(?s)c\.yaml.*nothing was changed.*chunk: 4"):
        write_engine(file, REFUSED[name], PLAN)
    assert file.read_text() == REFUSED[name]
    assert os.listdir(tmp_path) == ["c.yaml"]


def test_comments_elsewhere_stay() -> None:
    text = "# first\nname: a # the name\n# before\nengine:\n  chunk: 2\n# after\n" + REST + "# last\n"
    written = with_engine(text, PLAN)
    for comment in ("# first\n", "name: a # the name\n", "# before\n", "# after\n", "# last\n"):
        assert comment in written


def test_the_written_file_asks_for_this_plan(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    write_engine(file, "engine: {chunk: 1, precision: float32}\n" + REST, PLAN)
    engine = load_config(file).engine
    assert engine.model_dump() == PLAN.settings()


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "real" / "c.yaml", tmp_path / "link.yaml"
    file.parent.mkdir()
    file.write_text(REST)
    file.chmod(0o640)
    link.symlink_to(file)
    write_engine(link, REST, PLAN)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert yaml.safe_load(file.read_text())["engine"]["chunk"] == 4
    assert [each.name for each in file.parent.iterdir()] == ["c.yaml"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write the configuration .*c\.yaml"):
        write_engine(tmp_path / "file" / "c.yaml", REST, PLAN)


def test_a_target_that_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    """By either function, in the same words; nothing is made or replaced."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    long = "a" * 300
    before = sorted(os.listdir(tmp_path))
    for name in (".", "file/x", "loop", "loop/x", long, f"new/{long}", f"{long}/x", "a/" * 3000 + "x", "/proc/x.yaml"):
        for write in (check_target, lambda path: write_engine(path, REST, PLAN)):
            with pytest.raises(ConfigError, match="cannot write the configuration"):
                write(tmp_path / name)
    assert [name for name in sorted(os.listdir(tmp_path)) if name != "new"] == before


def test_any_target_that_can_be_written(tmp_path: Path) -> None:
    """Also one whose name is as long as names may be; looking leaves nothing behind."""
    (tmp_path / "link").symlink_to("missing.yaml")
    for name in ("c.yaml", "new/folder/c.yaml", "a" * 255, "link"):
        before = sorted(tmp_path.rglob("*"))
        check_target(tmp_path / name)
        assert sorted(tmp_path.rglob("*")) == before
        write_engine(tmp_path / name, REST, PLAN)
        assert load_config(tmp_path / name).engine.chunk == 4
    check_target(Path("/dev/null"))
