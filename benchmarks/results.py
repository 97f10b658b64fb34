"""Trains the runs of the results table within a budget, keeps their results as records, and writes the tables.

    python benchmarks/results.py --budget 60 --data PATH_TO_OMNIGLOT=~/omniglot [--only NAME ...] [--work FOLDER]

``docs/results/runs.yaml`` has the command of every row. A row is run where it has no record, then where its record was
made with another configuration or other code, as long as the budget of minutes lasts; what is cut off goes on the next
time, from its last checkpoint. Rows whose data is not given are left out, and said. As many runs go side by side as the
cores allow, each with the workers that its command names.

A record is known by two hashes: of its configuration, and of the code that decides what a run computes. Records without
hashes, of before, count as current.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "results"))

import records  # noqa: E402
import yaml  # noqa: E402
from figures import Record  # noqa: E402

MINUTE = 60.0
GRACE = 60.0
"""Seconds that a run has to leave a checkpoint when the budget is over."""


Keep = Callable[[Path, str, str], Path]
"""Makes a run's result a record: the run's folder, the record's name, the command."""


@dataclass
class Running:
    """A run that is under way.

    Attributes:
        name: of its row.
        command: as ``runs.yaml`` has it.
        cores: that it takes.
        began: on the monotonic clock.
        child: its process.
    """

    name: str
    command: str
    cores: int
    began: float
    child: subprocess.Popen[bytes]


def waiting(commands: Mapping[str, str], known: Mapping[str, Record]) -> list[str]:
    """Rows to run: first those without a record, then those whose record is of other settings or other code."""
    missing = [name for name in commands if name not in known]
    stale = [name for name in commands if name in known and changed(commands[name], known[name])]
    return missing + stale


def changed(command: str, record: Record) -> bool:
    """Whether a record was made with another configuration or other code."""
    kept = record.get("hashes")
    return kept is not None and kept != records.hashes_of(command)


def filled_in(command: str, data: Mapping[str, str]) -> list[str] | None:
    """The words of a command with the folders of its data; ``None`` where one is not given."""
    words = []
    for word in shlex.split(command):
        key, _, value = word.partition("=")
        if value.startswith("PATH_TO_"):
            if value not in data:
                return None
            word = f"{key}={data[value]}"
        words.append(word)
    return words


def cores_of(words: list[str]) -> int:
    """Cores that a run takes: a worker each."""
    found = [int(word.partition("=")[2]) for word in words if word.startswith("cluster.workers=")]
    return max(1, *found) if found else os.cpu_count() or 1


def start(name: str, command: str, words: list[str], work: Path) -> Running:
    """Begin a run, or go on with it."""
    folder = work / name
    more = ["--resume"] if (folder / "checkpoints").exists() else []
    log = (work / f"{name}.log").open("ab")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-m", *words, "--run-dir", str(folder), *more],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    print(f"{name}: {'goes on' if more else 'begins'}, log {work / name}.log", flush=True)
    return Running(name, command, cores_of(words), time.monotonic(), child)


def ended(run: Running, work: Path, sole: bool, keep: Keep) -> None:
    """Keep the result of a run that has ended."""
    seconds = time.monotonic() - run.began
    if run.child.returncode != 0:
        print(f"{run.name}: failed after {seconds / MINUTE:.1f} minutes, see {work / run.name}.log", flush=True)
        return
    file = keep(work / run.name, run.name, run.command)
    print(f"{run.name}: kept in {file} after {seconds / MINUTE:.1f} minutes", flush=True)
    if not sole:
        print(f"{run.name}: other runs went beside it, so its time is an upper bound", flush=True)


def stop(running: list[Running]) -> None:
    """Let what is under way leave a checkpoint."""
    for run in running:
        os.kill(run.child.pid, signal.SIGINT)
    end = time.monotonic() + GRACE
    for run in running:
        try:
            run.child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(run.child.pid, signal.SIGKILL)
            run.child.wait()
        print(f"{run.name}: the budget is over; it goes on the next time", flush=True)


def train(
    rows: Iterator[tuple[str, str, list[str]]], cores: int, seconds: float, work: Path, keep: Keep = records.keep
) -> None:
    """Run the rows one after the other, several at a time where the cores allow, until the time is over."""
    end, following = time.monotonic() + seconds, next(rows, None)
    running: list[Running] = []
    while running or following is not None:
        free = cores - sum(run.cores for run in running)
        if following is not None and time.monotonic() < end and (cores_of(following[2]) <= free or not running):
            running.append(start(*following, work))
            following = next(rows, None)
            continue
        if time.monotonic() >= end:
            stop(running)
            return
        time.sleep(0.5)
        for run in [each for each in running if each.child.poll() is not None]:
            running.remove(run)
            ended(run, work, not running, keep)


def main() -> None:
    """Run what is wanting, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, required=True, metavar="MINUTES", help="for all runs together")
    parser.add_argument("--data", action="append", default=[], metavar="PATH_TO_X=FOLDER", help="where data lies")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows alone")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results", help="folder of the runs")
    options = parser.parse_args()
    commands: dict[str, str] = yaml.safe_load((records.RECORDS / "runs.yaml").read_text(encoding="utf-8"))
    if unknown := set(options.only or ()) - set(commands):
        sys.exit(f"--only {' '.join(sorted(unknown))}: there is no such row; there are {', '.join(commands)}")
    data = dict(each.split("=", 1) for each in options.data if "=" in each)
    data = {key: str(Path(value).expanduser().resolve()) for key, value in data.items()}
    records.checked_out()  # what is run is what a commit has
    wanted = [name for name in waiting(commands, records.read_records()) if not options.only or name in options.only]
    options.work.mkdir(parents=True, exist_ok=True)
    given = {name: filled_in(commands[name], data) for name in wanted}
    for name in [name for name, words in given.items() if words is None]:
        print(f"{name}: left out, since --data does not say where its data lies ({commands[name]})")
    rows = ((name, commands[name], words) for name, words in given.items() if words is not None)
    train(rows, os.cpu_count() or 1, options.budget * MINUTE, options.work)
    records.write()


if __name__ == "__main__":
    main()
