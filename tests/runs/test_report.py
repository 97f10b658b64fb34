"""Reports are whole pages of their own: no network, every figure as in the result, nothing of a run's text as HTML."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import check_page, chromium

import distmeta
from distmeta.errors import ConfigError, StorageError
from distmeta.loading import load_config
from distmeta.runs.report.charts import Line, bars, dots, lines, parallel, stacked
from distmeta.runs.report.scales import Scale
from distmeta.runs.report.writing import write_report

GLYPHS = {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2}
SHORT = {"steps": 6, "meta_batch": 2, "tasks_per_shard": 2, "checkpoint_every": 3, "validate_every": 3, "log_every": 1}
RUNS: dict[str, dict[str, Any]] = {
    "images": {
        "tasks": GLYPHS,
        "model": {"kind": "conv4", "filters": 4},
        "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 2},
    },
    "prototypes": {"tasks": GLYPHS, "model": {"kind": "conv4", "filters": 4}, "algorithm": {"name": "protonet"}},
    "curves": {
        "tasks": {"kind": "sinusoid"},
        "model": {"kind": "mlp", "hidden": [8]},
        "algorithm": {"name": "maml", "inner_lr": 0.01},
    },
    "policies": {
        "tasks": {"kind": "navigation", "episodes": 2},
        "model": {"kind": "mlp", "hidden": [8]},
        "algorithm": {"name": "maml_vpg", "inner_lr": 0.1},
    },
}


HIDDEN = "return [...document.querySelectorAll('pre')].filter((each) => !each.checkVisibility()).length"
"""Settings and the like that a print would lack."""


class Page(HTMLParser):
    """What is in a page: tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "line", "rect", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "circle", "polyline", "polygon"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def trained(folder: Path, settings: dict[str, Any], name: str = "a-run") -> Path:
    values = {"run": SHORT, "evaluation": {"tasks": 4, "validation_tasks": 4}, "cluster": {"workers": 0}, "name": name}
    for _ in distmeta.train(load_config({**values, **settings}), str(folder)):
        pass
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    return {name: trained(base / name, settings, name) for name, settings in RUNS.items()}


def check_whole(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://", html)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_has_a_page(name: str, runs: dict[str, Path]) -> None:
    written = check_whole((runs[name] / "report.html").read_text())
    assert "Learning curves" in written.text
    assert "Example tasks" not in written.text
    page = check_whole(Path(write_report([runs[name]])).read_text())
    assert "They cannot be shown here" not in page.text
    measured = json.loads((runs[name] / "result.json").read_text())["meta_test"]
    main = next(
        key for key in measured if key not in ("loss", "by_step", "by_episode", "by_group", "before_adaptation")
    )
    mean = measured[main]["mean"]
    assert (f"{100 * mean:.2f}" if name in ("images", "prototypes") else f"{mean:.4g}") in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert bool(images) == (name != "curves")
    if name == "images":
        assert "predicted before adaptation" in page.text
        assert "predicted after adaptation" in page.text


def test_it_can_be_done_without_the_data(runs: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs["images"], moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config)
    for checkpoint in (moved / "checkpoints").iterdir():
        (checkpoint / "params.safetensors").write_bytes(b"")
    page = check_whole(Path(write_report([moved])).read_text())
    assert "They cannot be shown here: no checkpoint of" in page.text


def test_several_runs_stand_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    page = check_whole(Path(write_report([runs["images"], runs["prototypes"]], tmp_path / "both.html")).read_text())
    assert "algorithm.name" in page.text
    assert "tasks.ways" not in page.text
    assert "images: training" in page.text
    same = check_whole(Path(write_report([runs["images"], runs["images"]], tmp_path / "c.html")).read_text())
    assert "no setting differs" in same.text


def test_pages_in_a_browser(runs: dict[str, Path], tmp_path: Path) -> None:
    """On a wide and a narrow window, light, dark and printed; nothing is asked of the network."""
    pages = [Path(write_report([run])) for run in runs.values()]
    pages.append(Path(write_report([runs["images"], runs["prototypes"]], tmp_path / "both.html")))
    with chromium(tmp_path / "profile") as browser:
        for page in pages:
            browser.get(page.as_uri())
            check_page(browser)
            assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
            assert bool(browser.execute_script(HIDDEN)) == (page.name == "report.html")
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
            styles = {css: f"getComputedStyle(document.querySelector('{css}'))" for css in (".charts", ".key", "nav")}
            assert len(browser.execute_script(f"return {styles['.charts']}.gridTemplateColumns").split()) == 2
            assert browser.execute_script(f"return {styles['nav']}.display") == "none"
            # Where browsers leave out what is behind texts, a legend would be of no use.
            assert browser.execute_script(f"return {styles['.key']}.printColorAdjust") == "exact"
            assert browser.execute_script(HIDDEN) == 0


def test_shots(runs: dict[str, Path], tmp_path: Path) -> None:
    page = check_whole(Path(write_report([runs["prototypes"]], tmp_path / "s.html", shots=[1, 2])).read_text())
    assert "By shots" in page.text


def test_text_of_a_run_is_no_html(runs: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs["curves"], moved)
    config = (moved / "config.yaml").read_text().replace("name: curves", "name: <script>alert(1)</script>")
    (moved / "config.yaml").write_text(config)
    html = Path(write_report([moved], examples=0)).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_run_that_has_not_ended_and_none(runs: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs["curves"], moved)
    (moved / "result.json").unlink()
    with (moved / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/lo')
    page = check_whole(Path(write_report([moved], examples=0)).read_text())
    assert "no result yet" in page.text
    with pytest.raises(StorageError, match="holds no run and no sweep"):
        write_report([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="one run or more"):
        write_report([])


def test_one_number_far_out_leaves_the_others_their_room() -> None:
    """As the loss of a validation that diverged."""
    usual = [(float(step), 1 + math.sin(step) / 2) for step in range(20)]
    chart = lines("loss", [Line("loss", [*usual, (20.0, 4e8)], band=[0.1] * 21)], "steps", "loss")
    assert "loss, logarithmic" in chart.svg
    linear = lines("loss", [Line("loss", usual)], "steps", "loss")
    assert "logarithmic" not in linear.svg
    below = lines("return", [Line("return", [*usual, (20.0, 4e8), (21.0, -1.0)])], "steps", "return")
    assert "logarithmic" not in below.svg
    heights = [float(each.split(",")[1]) for each in re.findall(r'points="([^"]*)"', chart.svg)[-1].split()]
    assert max(heights[:20]) - min(heights[:20]) > 5


def test_charts_take_what_is_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    charts = [
        lines("a", [Line("x", [(0, nan), (1, 2), (2, inf), (3, 4)], [0, 1, nan, 1])], "x", "y"),
        lines("b", [Line("x", [])], "x", "y", log_y=True),
        lines("c", [Line("x", [(1, 0.0), (2, 10.0), (3, -1.0)])], "x", "y", log_y=True),
        dots("d", [(1, 2, nan, "t"), (nan, 1, 2, "u")], "x", "y", "s", log=False),
        bars("e", {"one": 0.0, "two": 0.0}, "share", percent=True),
        parallel("f", [{"a": 1.0, "s": nan}, {"a": 2.0, "s": 1.0}], ["a", "s"], "s", []),
        stacked("g", {"one": [0.5, 2.0], "two": [0.5, -1.0]}, [0.0, 1.0], "x"),
    ]
    for chart in charts:
        assert "nan" not in chart.svg
        assert "inf" not in chart.svg
        Page(chart.svg)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.9), (0.00012, 0.00019), (1e6, 3e9), (5, 5), (0, 0)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    for log in (False, True):
        scale = Scale.of([low, high], 0, 100, log=log)
        ticks = [value for value, _ in scale.ticks()]
        assert 2 <= len(ticks) <= 12
        assert all(-1e-6 <= scale.place(value) <= 100 + 1e-6 for value in ticks)
