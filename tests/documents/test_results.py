"""Figures of runs in documents are those of the records, and a record is what a run left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import distmeta
from distmeta.config.schema import dump_config
from distmeta.errors import ConfigError, StorageError
from distmeta.runs.directory import RunDirectory
from distmeta.sweeps.sweep import dump_sweep, load_sweep

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "results"))

import records  # noqa: E402
from figures import block, figure, meta_test_words, spread, training_words  # noqa: E402

RECORDS = records.read_records()
COMMAND = "distmeta train configs/demo.yaml run.steps=5"


def mean(value: float | None, ci95: float | None = 0.01) -> dict[str, Any]:
    return {"mean": value, "ci95": ci95, "tasks": 600}


ACCURATE = {
    "loss": mean(0.2),
    "accuracy": mean(0.93142, 0.00435),
    "accuracy_inductive": mean(0.9129, 0.0051),
    "before_adaptation": mean(0.2, 0.008),
    "by_step": [{"step": 0, "mean": 0.2, "ci95": 0.008}, {"step": 1, "mean": 0.93142, "ci95": 0.00435}],
}
ERROR = {
    "loss": mean(0.33),
    "mse": mean(0.33, 0.045),
    "before_adaptation": mean(3.2, 0.2),
    "by_step": [{"step": step, "mean": 1 / (1 + step), "ci95": 0.0531} for step in range(11)],
}


def result(measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "steps": 5,
        "tasks": 80,
        "seconds": 75.2,
        "tasks_per_second": 1234.5,
        "checkpoint": "checkpoints/step-00000005",
        "best_validation": None,
        "workers": {"count": 2, "shards_each": [10, 10]},
        "faults": {"workers_lost": 0},
        "meta_test": measured,
    }


def record(measured: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fields = {"commit": "abc1234", "date": "2026-01-02", "machine": "2 CPU cores", "torch": "2.13.0"}
    return {
        "command": COMMAND,
        **fields,
        "algorithm": "maml",
        "in_process": False,
        "result": result(measured),
        **changes,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory as a short demo would leave it."""
    directory = RunDirectory(tmp_path / "run")
    (tmp_path / "run").mkdir()
    config = distmeta.load_config(ROOT / "configs" / "demo.yaml", ["run.steps=5"])
    directory.write_config(dump_config(config))
    directory.write_result(result(ACCURATE))
    os.utime(tmp_path / "run" / "result.json", (1767312000, 1767312000))  # 2026-01-02
    return tmp_path / "run"


def test_figures_in_documents_are_those_of_the_records() -> None:
    stale = [str(file.relative_to(ROOT)) for file, now in records.rewritten() if now != file.read_text("utf-8")]
    assert not stale, "run `make results-table`"


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_how_it_was_made(name: str) -> None:
    kept = RECORDS[name]
    assert re.fullmatch(r"distmeta train configs/\w+\.yaml( [\w.]+=\S+)*", kept["command"])
    assert (ROOT / kept["command"].split()[2]).is_file()
    assert re.fullmatch(r"[0-9a-f]{7,}", kept["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", kept["date"])
    assert "CPU cores" in kept["machine"]
    assert kept["torch"]
    assert kept["result"]["meta_test"]
    for command, further in kept.get("evaluate", {}).items():
        assert command.startswith("distmeta evaluate RUN ")
        assert further["commit"]
        assert further["meta_test"]


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_shown(name: str) -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert f"[{name}](results/{name}.json)" in page
    assert f"| `{RECORDS[name]['command']}` |" in page


@pytest.mark.parametrize("name", RECORDS)
def test_every_further_evaluation_is_shown(name: str) -> None:
    text = "".join(file.read_text("utf-8") for file, _ in records.rewritten())
    for command in RECORDS[name].get("evaluate", {}):
        overrides = command.removeprefix("distmeta evaluate RUN ").removesuffix(" --json")
        assert re.search(rf"<!-- result: {name}\.\w+ {re.escape(overrides)} -->", text)


@pytest.mark.parametrize("name", records.read_others())
def test_every_sweep_and_benchmark_is_shown(name: str) -> None:
    pages = [file.read_text("utf-8") for file, _ in records.rewritten()]
    kinds = "sweep|peers|baselines|rules|parts|memory|heads|serving|adapting|shown"
    assert any(re.search(rf"<!-- results: ({kinds}) {name} -->", page) for page in pages)


def test_published_figures_have_a_source() -> None:
    for name, paper in records.read_published().items():
        command = RECORDS[name]["command"].split() if name in RECORDS else ["", "", f"configs/{name}.yaml"]
        assert (ROOT / command[2]).is_file()
        assert {"figure", "source"} <= set(paper) <= {"figure", "source", "value", "why"}
        assert "](https://" in paper["source"]


@pytest.mark.parametrize("name", [name for name, paper in records.read_published().items() if "value" in paper])
def test_a_figure_below_the_published_one_has_a_reason(name: str) -> None:
    paper, record = records.read_published()[name], RECORDS.get(name)
    if record is None:
        return
    ours = record["result"]["meta_test"]["accuracy"]
    if 100 * (ours["mean"] + ours["ci95"]) < float(paper["value"]):
        assert paper["why"]


def test_methods_stand_beside_their_papers() -> None:
    text = records.rewrite(
        "<!-- results: methods -->\n<!-- /results -->\n", RECORDS, records.read_published(), records.read_others()
    )
    row = next(line for line in text.splitlines() if "`omniglot_5w1s_protonet`" in line)
    measured = RECORDS["omniglot_5w1s_protonet"]["result"]["meta_test"]["accuracy"]["mean"]
    assert f"| {100 * measured - 98.8:+.2f} |" in row
    assert "[`protonet`](algorithms/protonet.md)" in row


def test_every_run_of_the_table_makes_a_configuration() -> None:
    commands = yaml.safe_load((ROOT / "docs" / "results" / "runs.yaml").read_text("utf-8"))
    for name, command in commands.items():
        hashes = records.hashes_of(command)
        assert hashes == records.hashes_of(command)
        assert hashes["config"] != records.hashes_of(f"{command} seed=5")["config"]
        assert (ROOT / "configs" / f"{name}.yaml").is_file()
    data = "tasks.root=PATH_TO_OMNIGLOT"
    moved = commands["omniglot_5w1s_r2d2"].replace(data, "tasks.root=/elsewhere")
    assert records.hashes_of(moved) == records.hashes_of(commands["omniglot_5w1s_r2d2"])


def test_keep(run: Path, tmp_path: Path) -> None:
    file = records.keep(run, "short", COMMAND, commit="abc1234", elapsed=90, folder=tmp_path)
    assert file == tmp_path / "short.json"
    kept = json.loads(file.read_text("utf-8"))
    assert kept["result"] == RunDirectory(run).read_result()
    assert {key: kept[key] for key in ("command", "commit", "date", "algorithm", "in_process", "elapsed")} == {
        "command": COMMAND,
        "commit": "abc1234",
        "date": "2026-01-02",
        "algorithm": "maml",
        "in_process": False,
        "elapsed": 90,
    }
    assert kept["machine"].startswith(f"{os.cpu_count()} CPU cores, ")
    assert "evaluate" not in kept


def test_a_run_of_an_older_version_is_kept(run: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert values.pop("schema") > 1
    (run / "config.yaml").write_text(yaml.safe_dump({"schema": 2, **values}))
    records.keep(run, "short", COMMAND, commit="abc1234", folder=tmp_path)


def test_keep_names_the_commit_and_evaluates(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(records, "checked_out", lambda: "def5678")
    monkeypatch.setattr(distmeta, "evaluate", lambda *each: asked.append(each) or ERROR)
    file = records.keep(run, "short", COMMAND, ["evaluation.queries=15 evaluation.tasks=9"], folder=tmp_path)
    kept = json.loads(file.read_text("utf-8"))
    assert kept["commit"] == "def5678"
    assert asked == [(run, ["evaluation.queries=15", "evaluation.tasks=9"])]
    command = "distmeta evaluate RUN evaluation.queries=15 evaluation.tasks=9 --json"
    assert kept["evaluate"] == {command: {"commit": "def5678", "meta_test": ERROR}}
    assert figure(kept, "mse", "evaluation.queries=15 evaluation.tasks=9") == "0.330 ± 0.045"


def test_code_without_a_commit_makes_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "distmeta").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "distmeta" / "code.py").write_text("a = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert re.fullmatch(r"[0-9a-f]{7,}", records.checked_out())
    (tmp_path / "distmeta" / "code.py").write_text("a = 2\n")
    with pytest.raises(ValueError, match="differ from the last commit"):
        records.checked_out()


SWEPT = "distmeta tune configs/sweeps/sinusoid_lr.yaml"


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A sweep's folder as it would be left."""
    folder = tmp_path / "swept"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(dump_sweep(load_sweep(ROOT / "configs" / "sweeps" / "sinusoid_lr.yaml")))
    values = {"algorithm.inner_lr": 0.01, "outer.lr": 0.001}
    trial = {"status": "finished", "runs": 1, "steps": 1000, "problem": ""}
    first = {"name": "00000", "score": 1.9052, "step": 900, "values": values, **trial}
    best = {"name": "00007", "score": 0.925, "step": 1000, "values": {**values, "outer.lr": 0.009744}, **trial}
    meta_test = {"mse": mean(0.95, 0.08), "loss": mean(0.95, 0.08)}
    told = {"trial": "00007", "values": best["values"], "score": 0.925, "step": 1000, "checkpoint": "trials/00007"}
    summary = {"name": "sinusoid_lr", "metric": "mse", "mode": "min", "best": {**told, "meta_test": meta_test}}
    summary |= {"files": ["results.json"], "seeds": [0], "trials": [best, first]}
    (folder / "results.json").write_text(json.dumps(summary))
    return folder


def test_a_sweep_is_kept_and_shown(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "checked_out", lambda: "def5678")
    file = records.keep_sweep(swept, "short", SWEPT, 40, folder=tmp_path)
    assert file == tmp_path / "others" / "short.json"
    table = block("sweep short", {}, {}, records.read_others(tmp_path))
    assert "| first | `algorithm.inner_lr` 0.01, `outer.lr` 0.001 | 1.905 at step 900 |  |" in table
    assert "| best | `algorithm.inner_lr` 0.01, `outer.lr` 0.009744 | 0.925 at step 1000 | 0.950 ± 0.080 |" in table
    assert "2 trials in 0:40, Ray's start included (def5678, " in table


def test_a_benchmark_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "checked_out", lambda: "def5678")
    ours, theirs = (
        {"tasks_per_second": 410.26, "ours_over_this": 1.0},
        {"tasks_per_second": 98.1, "ours_over_this": 4.18},
    )
    left = tmp_path / "peers.json"
    left.write_text(json.dumps({"cases": {"omniglot-5w1s": {"distmeta": ours, "higher": theirs}}}))
    records.keep_benchmark(left, "peers", "python benchmarks/peers.py", folder=tmp_path)
    table = block("peers peers", {}, {}, records.read_others(tmp_path))
    assert "| case | distmeta | higher (distmeta over it) |" in table
    assert "| `omniglot-5w1s` | 410.3 | 98.1 (**4.18 x**) |" in table
    assert "`python benchmarks/peers.py` (def5678, " in table
    with pytest.raises(ValueError, match="expected 'python benchmarks/"):
        records.keep_benchmark(left, "peers", "make bench", folder=tmp_path)


def test_a_command_that_makes_another_sweep_is_refused(swept: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trials: was 18, is 4"):
        records.keep_sweep(swept, "short", f"{SWEPT} trials=4", 40, folder=tmp_path)
    (swept / "results.json").unlink()
    with pytest.raises(ValueError, match="has not ended"):
        records.keep_sweep(swept, "short", SWEPT, 40, folder=tmp_path)
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("distmeta train configs/demo.yaml", "makes another run than this one: run.steps: was 400, is 5"),
        ("distmeta train configs/demo.yaml run.steps=5 --run-dir x", "without options"),
        ("make demo", "expected 'distmeta train CONFIG"),
    ],
)
def test_a_command_that_makes_another_run_is_refused(run: Path, tmp_path: Path, command: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        records.keep(run, "short", command, commit="abc1234", folder=tmp_path)
    assert not (tmp_path / "short.json").exists()


def test_a_run_that_has_not_ended_and_a_bad_name_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name"):
        records.keep(run, "../short", COMMAND, commit="abc1234", folder=tmp_path)
    (run / "result.json").unlink()
    with pytest.raises(StorageError, match="has not ended"):
        records.keep(run, "short", COMMAND, commit="abc1234", folder=tmp_path)


def test_accuracies_are_percentages_and_errors_are_not() -> None:
    assert spread(mean(0.93142, 0.00435), True) == "93.14 ± 0.43 %"
    assert spread(mean(0.385, 0.0531), False) == "0.385 ± 0.053"
    assert spread(mean(None, None), False) == "not finite"
    assert figure(record(ACCURATE), "before_adaptation") == "20.00 ± 0.80 %"
    assert figure(record(ERROR), "before_adaptation") == "3.200 ± 0.200"
    assert figure(record(ACCURATE), "loss") == "0.200 ± 0.010"
    assert figure(record(ERROR, elapsed=173), "elapsed") == "2:53"


def test_a_meta_test_in_words() -> None:
    assert meta_test_words(ACCURATE) == (
        "transductive 93.14 ± 0.43 %, inductive 91.29 ± 0.51 %, 20.00 ± 0.80 % before adaptation"
    )
    assert meta_test_words({"loss": mean(0.2), "accuracy": mean(0.5)}) == "50.00 ± 1.00 %"
    assert meta_test_words(ERROR) == "0.500 ± 0.053 after 1, 0.167 ± 0.053 after 5, 0.091 ± 0.053 after 10 inner steps"
    assert meta_test_words({"mse": mean(0.33, 0.045)}) == "0.330 ± 0.045"


def test_training_in_words() -> None:
    assert training_words(record(ACCURATE)) == "1:15, 1,234 tasks/s, 2 workers"
    assert (
        training_words(record(ACCURATE, elapsed=90, in_process=True)) == "1:15 (1:30 in all), 1,234 tasks/s, in process"
    )


def test_tables() -> None:
    kept = {"a": record(ACCURATE), "b": record(ERROR, algorithm="reptile")}
    table = block("records", kept, {"b": {"figure": "0.3", "source": "[p](https://p.invalid)"}}, {}).splitlines()
    assert len(table) == 4
    assert table[1] == "|---|---|---|---|---|"
    assert table[2].endswith("| 600 | none | 1:15, 1,234 tasks/s, 2 workers |")
    assert "| 0.3 ([p](https://p.invalid)) |" in table[3]
    assert block("conditions", kept, {}, {}).splitlines()[2] == (
        "| [a](results/a.json) | abc1234 | 2026-01-02 | 2 CPU cores | 2.13.0 |"
    )
    assert len(block("algorithm reptile", kept, {}, {}).splitlines()) == 5
    assert block("algorithm anil", kept, {}, {}) == "There is no figure of ours yet."
    assert "│ accuracy, transductive ↑ │ 93.14 % │" in block("printed a", kept, {}, {})


def test_markers_stay_and_what_is_between_them_changes() -> None:
    kept = {"a": record(ACCURATE)}
    text = "Up to **<!-- result: a.accuracy -->1 %<!-- /result -->** and <!-- result: a.loss --><!-- /result -->.\n"
    once = records.rewrite(text, kept, {}, {})
    assert once == (
        "Up to **<!-- result: a.accuracy -->93.14 ± 0.43 %<!-- /result -->** and "
        "<!-- result: a.loss -->0.200 ± 0.010<!-- /result -->.\n"
    )
    assert records.rewrite(once, kept, {}, {}) == once
    text = "<!-- results: algorithm anil -->\nold\n<!-- /results -->\n"
    once = records.rewrite(text, kept, {}, {})
    assert once == "<!-- results: algorithm anil -->\n\nThere is no figure of ours yet.\n\n<!-- /results -->\n"
    assert records.rewrite(once, kept, {}, {}) == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <!-- result: a.accuracy -->1 %", "pairs"),
        (
            "<!-- result: a.accuracy -->1 %<!-- /result -->",
            "pairs",
        ),  # at a line's start Markdown takes the line for HTML
        ("a <!-- results: records -->\n<!-- /results -->", "pairs"),
        ("a <!-- result: b.accuracy --><!-- /result -->", "names 'b'"),
        ("a <!-- result: a.mse --><!-- /result -->", "names 'mse'"),
        ("a <!-- result: a.accuracy evaluation.tasks=1 --><!-- /result -->", "names 'evaluate'"),
        ("<!-- results: other -->\n<!-- /results -->", "no results called 'other'"),
    ],
)
def test_wrong_markers_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        records.rewrite(text, {"a": record(ACCURATE)}, {}, {})


def test_baselines_are_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "checked_out", lambda: "def5678")
    left = tmp_path / "texts.json"
    left.write_text(json.dumps({"tasks": 2000, "accuracy": {"TF-IDF of words": {"mean": 0.6481, "ci95": 0.0049}}}))
    records.keep_benchmark(left, "texts", "python benchmarks/texts.py configs/x.yaml", folder=tmp_path)
    table = block("baselines texts", {}, {}, records.read_others(tmp_path))
    assert "| TF-IDF of words | 64.81 ± 0.49 % |" in table
    assert "`python benchmarks/texts.py configs/x.yaml`, 2,000 tasks (def5678, " in table
