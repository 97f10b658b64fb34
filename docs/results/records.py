"""Records of runs, and the figures that README and documentation show of them.

    python docs/results/records.py keep runs/first omniglot_5w1s_maml \\
        --command "distmeta train configs/omniglot_5w1s_maml.yaml tasks.root=PATH_TO_OMNIGLOT run.steps=1000" \\
        --evaluate evaluation.queries=15
    python docs/results/records.py sweep runs/sinusoid_lr sinusoid_lr --elapsed 40 \\
        --command "distmeta tune configs/sweeps/sinusoid_lr.yaml"
    python docs/results/records.py curve runs/first omniglot_5w1s_maml
    python docs/results/records.py write

``keep`` writes ``docs/results/NAME.json``: what ``result.json`` holds, with command, commit, date and machine. Commit
and machine are those of now, so keep a run where and when it was made. ``sweep`` does so with ``results.json`` of a
sweep, ``benchmark`` with the file that a benchmark's ``--json`` wrote; they lie in ``docs/results/others/``. ``curve``
draws a run's learning curve, ``docs/results/curves/NAME.png``, for a page that shows it. ``write`` (``make
results-table``) rewrites what stands between these markers, which are comments and not seen:

- ``<!-- results: WHAT -->`` to ``<!-- /results -->``, on lines of their own: a table, or what a run prints. WHAT is
  ``records``, ``methods``, ``short``, ``conditions``, ``algorithm NAME``, ``runs PART``, ``printed RECORD``, ``sweep
  NAME``, ``peers NAME``, ``baselines NAME``, ``rules NAME``, ``parts NAME``, ``memory NAME``, ``heads
  NAME``, ``serving NAME`` or ``adapting NAME``.
- ``<!-- result: RECORD.FIELD -->`` to ``<!-- /result -->``, within a line and not at its start: one figure of the
  meta-test. ``RECORD.FIELD OVERRIDES`` is of a further evaluation.

Figures of papers are typed, in ``published.yaml``, and stand in a column of their own; ``why`` there says why ours is
below one. ``runs.yaml`` has the commands that ``make results`` (``benchmarks/results.py``) runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml
from curves import draw
from figures import Published, Record, block, evaluation, figure

import distmeta
from distmeta.config.migrations import CONFIG_MIGRATIONS, migrated
from distmeta.config.schema import written_values
from distmeta.core.hashing import sha256
from distmeta.runs.directory import RESULT, RunDirectory, differences, to_json
from distmeta.storage.files import Storage
from distmeta.sweeps.results import RESULTS, read_results
from distmeta.sweeps.sweep import SWEEP, check_same_sweep, dump_sweep, load_sweep

ROOT = Path(__file__).parents[2]
RECORDS = Path(__file__).parent
OTHERS = "others"

# These say where a run was, and not what it computed.
_ELSEWHERE = ("tasks.root", "tasks.source.root", "tasks.partition", "cluster.address", "run.dir")

_DECIDES = ("adaptations", "core", "estimators", "functional", "models", "objectives", "outer", "programs", "tasks")
"""Folders of the package whose code decides what a run computes."""

_BLOCK = re.compile(r"^(<!-- results: ([^\n]+?) -->\n).*?^(<!-- /results -->)$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(
    r"(?<!^)(<!-- result: (\w+)\.(\w+)(?: ([^\n<>]+))? -->).*?(<!-- /result -->)", re.DOTALL | re.MULTILINE
)


def keep(
    run: Path,
    name: str,
    command: str,
    evaluations: Sequence[str] = (),
    commit: str | None = None,
    elapsed: float | None = None,
    folder: Path = RECORDS,
) -> Path:
    """Make a run's result a record.

    Args:
        run: the run's directory.
        name: the record's.
        command: the ``distmeta train`` that made the run; it has to give the run's configuration.
        evaluations: overrides, separated by spaces, of further meta-tests; they are made now.
        commit: what the run was made with, if not with what is checked out.
        elapsed: seconds from the command's start to its end.
        folder: where records are.

    Returns:
        The record's file.

    Raises:
        ValueError: the name or the command is wrong, or the code has changes that no commit has.
        StorageError: there is no run that has ended.
    """
    _check_name(name)
    directory = RunDirectory(run)
    result = directory.read_result()
    # Loaded, so that settings which the run's version did not know have their defaults.
    config = written_values(distmeta.load_config(migrated(yaml.safe_load(directory.read_config()), CONFIG_MIGRATIONS)))
    _check_command(command, config)
    here = checked_out() if evaluations or commit is None else ""
    record = {
        "command": command,
        **_made(run / RESULT, commit or here),
        "algorithm": config["algorithm"]["name"],
        "in_process": config["cluster"]["workers"] == 0,
        **({} if elapsed is None else {"elapsed": elapsed}),
        "result": result,
    }
    if evaluations:
        record["evaluate"] = {
            evaluation(each): {"commit": here, "meta_test": distmeta.evaluate(run, shlex.split(each))}
            for each in evaluations
        }
    if commit is None:  # else the code that made it may be another one
        record["hashes"] = hashes_of(command)
    file = folder / f"{name}.json"
    file.write_text(to_json(record, indent=2) + "\n", encoding="utf-8")
    return file


def hashes_of(command: str) -> dict[str, str]:
    """By what a record is known to be current: hashes of its configuration, and of the code that computes it."""
    values = written_values(distmeta.load_config(*_words_of(command, "train", "CONFIG")))
    for key in _ELSEWHERE:
        _without(values, key.split("."))
    code = hashlib.sha256()
    for folder in _DECIDES:
        found = (ROOT / "distmeta" / folder).rglob("*")
        for file in sorted(file for file in found if file.suffix in (".py", ".cpp", ".h")):
            code.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return {"config": sha256(to_json(values).encode()), "code": code.hexdigest()}


def _without(values: Any, path: Sequence[str]) -> None:
    """Leave a setting out of nested ones, where it is there."""
    for part in path[:-1]:
        values = values.get(part) if isinstance(values, dict) else None
    if isinstance(values, dict):
        values.pop(path[-1], None)


def keep_sweep(sweep: Path, name: str, command: str, elapsed: float, folder: Path = RECORDS) -> Path:
    """Make a sweep's results a record; arguments and errors are as of :func:`keep`."""
    _check_name(name)
    file, overrides = _words_of(command, "tune", "SWEEP")
    home = Storage.at(sweep)
    check_same_sweep(home.read_bytes(SWEEP).decode(), dump_sweep(load_sweep(file, overrides)))
    found = read_results(home)
    if found is None:
        raise ValueError(f"{sweep}: the sweep has not ended")
    found["best"]["checkpoint"] = found["best"]["checkpoint"].removeprefix(f"{home.location}/")
    fields = {"command": command, "elapsed": elapsed, "results": found}
    return _keep_other(name, sweep / RESULTS, folder, checked_out(), **fields)


def keep_benchmark(figures: Path, name: str, command: str, commit: str | None = None, folder: Path = RECORDS) -> Path:
    """Make what a benchmark's ``--json`` wrote a record; name and commit are as of :func:`keep`."""
    _check_name(name)
    if not command.startswith(("python benchmarks/", "bash benchmarks/")):
        raise ValueError(f"expected 'python benchmarks/SCRIPT ...', got {command!r}")
    found = json.loads(figures.read_text(encoding="utf-8"))
    fields = {"command": command, "figures": found}
    if gpu := found.get("machine", {}).get("gpu"):  # measured there, and brought here
        own = found["machine"]
        fields |= {"machine": f"{own['cores']} CPU cores, {gpu}", "torch": own["torch"]}
    return _keep_other(name, figures, folder, commit or checked_out(), **fields)


def _keep_other(name: str, left: Path, folder: Path, commit: str, **fields: Any) -> Path:
    record = {**_made(left, commit), **fields}
    file = folder / OTHERS / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(to_json(record, indent=2) + "\n", encoding="utf-8")
    return file


def _made(left: Path, commit: str) -> dict[str, str]:
    """When, where and with what a file was left."""
    ended = datetime.fromtimestamp(left.stat().st_mtime, tz=timezone.utc)
    return {"commit": commit, "date": f"{ended:%Y-%m-%d}", "machine": machine(), "torch": torch.__version__}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"a record's name is made of letters, digits and underscores, got {name!r}")


def machine() -> str:
    """What the times of a run depend on."""
    capability = torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores, {platform.machine()} {capability}, {gpu}"


def checked_out() -> str:
    """The commit of the code that runs."""
    git = ("git", "-C", str(ROOT))
    changed = subprocess.check_output([*git, "status", "--porcelain", "--", "distmeta", "configs"])
    if changed:
        raise ValueError("distmeta/ or configs/ differ from the last commit, which a record names; commit them first")
    return subprocess.check_output([*git, "rev-parse", "--short=7", "HEAD"], text=True).strip()


def _check_command(command: str, config: Mapping[str, Any]) -> None:
    file, overrides = _words_of(command, "train", "CONFIG")
    made = written_values(distmeta.load_config(file, overrides))
    wrong = [text for key, text in differences(made, config).items() if key not in _ELSEWHERE]
    if wrong:
        raise ValueError(f"{command!r} makes another run than this one: " + "; ".join(wrong))


def _words_of(command: str, verb: str, what: str) -> tuple[Path, list[str]]:
    """The file that a command names, and its overrides."""
    words = shlex.split(command)
    if words[:2] != ["distmeta", verb] or len(words) < 3 or any(word.startswith("-") for word in words):
        raise ValueError(f"expected 'distmeta {verb} {what} [KEY=VALUE]...' without options, got {command!r}")
    return ROOT / words[2], words[3:]


def read_records(folder: Path = RECORDS) -> dict[str, Record]:
    """All records by name: first those of ``published.yaml``, in its order."""
    order = list(read_published(folder))
    names = sorted(file.stem for file in folder.glob("*.json"))
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def read_others(folder: Path = RECORDS) -> dict[str, Record]:
    """Records of sweeps and benchmarks, by name."""
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((folder / OTHERS).glob("*.json"))
    }


def read_published(folder: Path = RECORDS) -> Published:
    """``figure`` and ``source`` of papers, by record."""
    published: Published = yaml.safe_load((folder / "published.yaml").read_text(encoding="utf-8"))
    return published


def rewrite(text: str, records: Mapping[str, Record], published: Published, others: Mapping[str, Record]) -> str:
    """A document with the records' figures between its markers.

    Raises:
        ValueError: a marker is alone, names what there is not, or stands where it would be seen.
    """
    counts = [text.count(each) for each in ("<!-- results: ", "<!-- /results -->", "<!-- result: ", "<!-- /result -->")]
    blocks, inline = len(_BLOCK.findall(text)), len(_INLINE.findall(text))
    if counts != [blocks, blocks, inline, inline]:
        raise ValueError("markers of results are not in pairs, or stand where they would be seen")
    try:
        text = _BLOCK.sub(lambda at: f"{at[1]}\n{block(at[2], records, published, others)}\n\n{at[3]}", text)
        return _INLINE.sub(lambda at: f"{at[1]}{figure(records[at[2]], at[3], at[4])}{at[5]}", text)
    except KeyError as error:
        raise ValueError(f"a marker of results names {error}, which no record has") from error


def rewritten() -> Iterator[tuple[Path, str]]:
    """The folders' READMEs and the pages of the documentation, and what they should hold."""
    records, published, others = read_records(), read_published(), read_others()
    readmes = [ROOT / folder / "README.md" for folder in (".", "benchmarks", "cluster")]
    for file in (*readmes, *sorted((ROOT / "docs").rglob("*.md"))):
        try:
            yield file, rewrite(file.read_text(encoding="utf-8"), records, published, others)
        except ValueError as error:
            raise ValueError(f"{file.relative_to(ROOT)}: {error}") from error


def write() -> None:
    """Write the figures of all records into the documents."""
    for file, now in rewritten():
        if now != file.read_text(encoding="utf-8"):
            file.write_text(now, encoding="utf-8")
            print(file.relative_to(ROOT))


def main() -> None:
    """Keep a run, or write the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="does", required=True)
    kept = commands.add_parser("keep", help="make a run's result a record")
    kept.add_argument("run", type=Path, metavar="RUN_DIR")
    kept.add_argument("name", metavar="NAME")
    kept.add_argument("--command", required=True, help="what made the run, with PATH_TO_OMNIGLOT for its archives")
    kept.add_argument("--evaluate", action="append", default=[], metavar="OVERRIDES", help="a further meta-test")
    kept.add_argument("--commit", help="what the run was made with, if not with what is checked out")
    kept.add_argument("--elapsed", type=float, metavar="SECONDS", help="from the command's start to its end")
    swept = commands.add_parser("sweep", help="make a sweep's results a record")
    swept.add_argument("sweep", type=Path, metavar="SWEEP_DIR")
    swept.add_argument("name", metavar="NAME")
    swept.add_argument("--command", required=True, help="what made the sweep, with PATH_TO_OMNIGLOT for its archives")
    swept.add_argument("--elapsed", type=float, required=True, metavar="SECONDS", help="what the command took")
    benchmark = commands.add_parser("benchmark", help="make a benchmark's figures a record")
    benchmark.add_argument("figures", type=Path, metavar="FILE", help="that its --json wrote")
    benchmark.add_argument("name", metavar="NAME")
    benchmark.add_argument("--command", required=True, help="what wrote it, without --json")
    benchmark.add_argument("--commit", help="what it was measured with, if not with what is checked out")
    curve = commands.add_parser("curve", help="draw a run's learning curve")
    curve.add_argument("run", type=Path, metavar="RUN_DIR")
    curve.add_argument("name", metavar="NAME")
    commands.add_parser("write", help="write the figures of all records into the documents")
    options = parser.parse_args()
    if options.does == "keep":
        print(keep(options.run, options.name, options.command, options.evaluate, options.commit, options.elapsed))
        return
    if options.does == "sweep":
        print(keep_sweep(options.sweep, options.name, options.command, options.elapsed))
        return
    if options.does == "benchmark":
        print(keep_benchmark(options.figures, options.name, options.command, options.commit))
        return
    if options.does == "curve":
        draw(options.run, RECORDS / "curves" / f"{options.name}.png")
        return
    write()


if __name__ == "__main__":
    main()
