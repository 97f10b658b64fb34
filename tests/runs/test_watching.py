"""Looking on at policies: pictures and films of what they do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration_helpers import BANDITS, CLI, HALF_CHEETAH, NAVIGATION, SINUSOID, configure, train
from PIL import Image

from distmeta.errors import ConfigError
from distmeta.programs.reinforcement import ReinforcementProgram
from distmeta.runs.directory import RunDirectory
from distmeta.runs.watching import Watched, film, picture, watch

SHORT = ["run.steps=1", "run.validate_every=0", "evaluation.tasks=2", "engine.compile=none", "cluster.workers=0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("watched"), {}
    for base in (NAVIGATION, BANDITS, HALF_CHEETAH, SINUSOID):
        found[base["name"]] = folder / base["name"]
        train(found[base["name"]], base, *SHORT)
    return found


def test_what_is_seen_is_what_is_evaluated(runs: dict[str, Path]) -> None:
    watched = watch(runs["navigation"], ["evaluation.inner_steps=2"], tasks=3)
    assert list(watched.titles) == ["before adaptation", "after 1 step", "after 2 steps"]
    assert [len(scenes) for scenes in watched.scenes] == [9, 9, 9]
    program = ReinforcementProgram(configure(NAVIGATION, *SHORT, "evaluation.inner_steps=2"), _cpu())
    from distmeta.core.requests import Start
    from distmeta.runs.evaluate import load_snapshot

    snapshot, _ = load_snapshot(runs["navigation"])
    start = Start.of(1, program.layout.flatten(snapshot.meta))
    rows = program.evaluate(start, "test", range(3), details=True)
    assert rows.by_step is not None
    for step, scenes in enumerate(watched.scenes):
        rewards = sum((scene.rewards * scene.alive).double() for scene in scenes)
        np.testing.assert_allclose(rewards.mean(-1), rows.by_step[:, step], rtol=1e-6)  # type: ignore[union-attr]


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def test_groups_are_told_apart(runs: dict[str, Path]) -> None:
    measured = RunDirectory(runs["half_cheetah"]).read_result()["meta_test"]
    assert set(measured["by_group"]) == {"forwards", "backwards"}
    both = [own["return"]["mean"] for own in measured["by_group"].values()]
    assert sum(both) / 2 == pytest.approx(measured["return"]["mean"])
    assert [row["step"] for row in measured["by_group"]["forwards"]["by_step"]] == [0, 1]


def test_paths(runs: dict[str, Path], tmp_path: Path) -> None:
    watched = watch(runs["navigation"], tasks=2)
    picture(watched, tmp_path / "paths.png")
    drawn = np.asarray(Image.open(tmp_path / "paths.png").convert("RGB"))
    red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60)  # the goals' stars
    assert red.sum() > 20
    with pytest.raises(ConfigError, match="cannot be drawn"):
        film(watched, tmp_path / "paths.gif")


def test_rewards_of_what_does_not_move_in_a_plane(runs: dict[str, Path], tmp_path: Path) -> None:
    watched = watch(runs["bandits"], tasks=1)
    assert list(watched.titles) == ["episode 1", "episode 2"]
    assert [len(scenes) for scenes in watched.scenes] == [5, 5]
    picture(watched, tmp_path / "rewards.png")
    assert Image.open(tmp_path / "rewards.png").size[0] > 200


@pytest.mark.slow
def test_a_film(runs: dict[str, Path], tmp_path: Path) -> None:
    """Or, on a machine without OpenGL, what is missing; MuJoCo is told before it is imported, so in its own process."""
    command = [CLI, "watch", runs["half_cheetah"], "--tasks", "1", "--video", tmp_path / "run.gif"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    if done.returncode:
        assert "MuJoCo cannot draw on this machine" in done.stderr
        return
    with Image.open(tmp_path / "run.gif") as found:
        assert found.n_frames == 10  # type: ignore[attr-defined]
        assert found.size == (320, 240)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [("paths.jpg", picture, r"\.png"), ("run.avi", film, r"\.gif or \.mp4")],
)
def test_wrong_names(runs: dict[str, Path], tmp_path: Path, name: str, write: Any, message: str) -> None:
    watched: Watched = watch(runs["navigation"], tasks=1)
    with pytest.raises(ConfigError, match=message):
        write(watched, tmp_path / name)


def test_runs_without_policies(runs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="use distmeta data show"):
        watch(runs["sinusoid"])
