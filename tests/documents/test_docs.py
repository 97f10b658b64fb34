"""The documentation without building it: links, anchors, the README's size, every option in the reference."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from distmeta.adaptations import ADAPTATIONS
from distmeta.algorithms import ALGORITHMS
from distmeta.config.schema import Config
from distmeta.estimators import ESTIMATORS
from distmeta.models import MODELS
from distmeta.objectives import OBJECTIVES
from distmeta.outer import OUTER
from distmeta.programs.deciding import GRAPH_REPAYS, INDUCTOR_REPAYS, LONGEST_GRAPH, MIXED_REPAYS
from distmeta.sweeps.sections import SCHEDULERS, Domain, Resources, SweepOptions
from distmeta.tasks import TASKS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import reference  # noqa: E402
from repository import PAGES, expand, relink  # noqa: E402

DOCS = sorted((ROOT / "docs").rglob("*.md"))
FILES = [ROOT / "README.md", *(ROOT / file for file in PAGES.values()), *DOCS]
SECTIONS = ("tasks", "model", "algorithm", "outer", "run", "evaluation", "cluster", "engine")

FENCE = re.compile(r"^(`{3,}|:{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def prose(file: Path) -> str:
    return FENCE.sub("", expand(file.read_text(encoding="utf-8")))


def anchors(file: Path) -> set[str]:
    """Of all headings, as GitHub and MyST make them."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(file)):
        text = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(next(each for each in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if each not in found))
    return found


def links(file: Path) -> Iterator[tuple[str, str]]:
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(file))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_relative_links_lead_somewhere(file: Path) -> None:
    broken = []
    for path, anchor in links(file):
        target = (file.parent / path).resolve() if path else file
        shown = ROOT / PAGES[target.stem] if target in DOCS and target.stem in PAGES else target
        if not target.exists() or (anchor and anchor not in anchors(shown)):
            broken.append(f"{path}#{anchor}" if anchor else path)
    assert not broken


def test_the_gallery_has_what_it_leads_to() -> None:
    page = ROOT / "docs" / "gallery.md"
    led = set(re.findall(r'<a href="(gallery/[^"]+)">', page.read_text(encoding="utf-8")))
    assert led == {f"gallery/{file.name}" for file in (ROOT / "docs" / "gallery").iterdir()}
    assert len(led) >= 8


def test_the_documents_have_links_and_anchors() -> None:
    found = [link for file in FILES for link in links(file)]
    assert len(found) > 60
    assert sum(bool(anchor) for _, anchor in found) > 10


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8 * 1024


def test_the_readme_leads_to_every_page() -> None:
    led = {(ROOT / path).resolve() for path, _ in links(ROOT / "README.md")}
    algorithms = ROOT / "docs" / "algorithms"  # there are many: their list leads to them
    assert algorithms / "index.md" in led
    listed = (algorithms / "index.md").read_text(encoding="utf-8").partition("```{toctree}")[2].partition("```")[0]
    led |= {algorithms / f"{name}.md" for name in listed.split()}
    shown = {ROOT / "docs" / f"{page}.md": ROOT / file for page, file in PAGES.items()}
    wanted = {shown.get(page, page) for page in DOCS} - {ROOT / "docs" / "index.md"}
    assert wanted <= led


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_page(name: str) -> None:
    text = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
    assert f"```{{generated}} algorithm {name}\n```" in text
    for heading in ("Equation", "Use", "Paper", "Figures"):
        assert f"\n## {heading}\n" in text


def test_every_option_of_a_configuration_is_in_the_reference() -> None:
    text = reference.configuration()
    sections = {
        "tasks": list(TASKS.options.values()),
        "model": list(MODELS.options.values()),
        "outer": list(OUTER.options.values()),
        "algorithm": [*ADAPTATIONS.options.values(), *ESTIMATORS.options.values()],
    }
    for name, info in Config.model_fields.items():
        for model in sections.get(name, [info.annotation]):
            if not issubclass(model, BaseModel):
                assert f"| `{name}` |" in text
                continue
            assert reference.text(model) in text
            for option in model.model_fields:
                assert re.search(rf"^\| `{name}\.{option}` \| .+ \| .+ \|$", text, re.MULTILINE), f"{name}.{option}"
    assert "| `outer.schedule.every` |" in text
    assert "| `tasks.augment.rotation` |" in text
    for settings in OBJECTIVES.options.values():
        assert all(f"| `tasks.objective.{option}` |" in text for option in settings.model_fields)
    assert "| `cluster.workers.max` |" in text


def test_every_option_of_a_sweep_is_in_the_reference() -> None:
    text = reference.sweep()
    places = [("", SweepOptions), ("space.KEY.", Domain), ("resources.", Resources)]
    places += [("scheduler.", model) for model in SCHEDULERS.values()]
    for prefix, model in places:
        for option in model.model_fields:
            assert f"| `{prefix}{option}` |" in text


def test_the_reference_says_type_and_default() -> None:
    rows = reference.configuration().splitlines()
    assert "| `outer.optimizer` | `adam` or `adamw` or `sgd` | `adam` |" in rows
    assert "| `run.tasks_per_shard` | integer > 0 or `null` | `null` |" in rows
    assert "| `outer.schedule.factor` | number > 0, ≤ 1 | required |" in rows
    assert "| `tasks.kind` | `glyphs` | required |" in rows


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_options_that_are_named_exist(file: Path) -> None:
    known = set(re.findall(r"^\| `([\w.]+)` \|", reference.configuration(), re.MULTILINE))
    text = file.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)(?:`|=|:)", text))
    files = {name for name in named if name.endswith((".py", ".md"))}
    assert named - files - {"run.py", "run.dir"} <= known


def test_the_rules_of_auto_are_those_of_the_engine() -> None:
    text = " ".join((ROOT / "docs" / "engine.md").read_text(encoding="utf-8").split())
    assert f"`mixed` beyond {MIXED_REPAYS} inner steps" in text
    assert f"at least {GRAPH_REPAYS} chunks" in text
    assert f"at least {INDUCTOR_REPAYS:,} tasks" in text
    assert f"`none` beyond {LONGEST_GRAPH} inner steps" in text


def test_links_of_a_page_are_those_of_the_built_documentation() -> None:
    assert relink("[a](configuration.md#engine)", "engine", "docs/engine.md") == "[a](configuration.md#engine)"
    assert relink("[a](../cluster/README.md)", "engine", "docs/engine.md") == "[a](cluster-files.md)"
    assert relink("[a](benchmarks/README.md)", "contributing", "CONTRIBUTING.md") == "[a](benchmarks.md)"
    assert relink("![a](../configs/sweeps/x.png)", "sweeps", "docs/sweeps.md") == "![a](../configs/sweeps/x.png)"
    assert relink("[a](https://ray.io/x#y) [b](#c)", "x", "docs/x.md") == "[a](https://ray.io/x#y) [b](#c)"
