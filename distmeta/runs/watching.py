"""Looking on at a trained policy: its episodes in some tasks, as pictures and films."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from distmeta.core.layout import Layout
from distmeta.core.records import Split
from distmeta.core.requests import Start
from distmeta.errors import ConfigError, DataError
from distmeta.programs import open_program
from distmeta.programs.recurrent import RecurrentProgram
from distmeta.programs.reinforcement import ReinforcementProgram
from distmeta.programs.rollouts import Scene
from distmeta.runs.evaluate import load_snapshot
from distmeta.tasks import prepare_family
from distmeta.tasks.environments.base import Environments
from distmeta.tasks.options import EnvironmentOptions

FRAMES_A_SECOND = 25
HEIGHT, WIDTH = 240, 320

FILMS = (".gif", ".mp4")


@dataclass(frozen=True)
class Watched:
    """Episodes of T tasks.

    Attributes:
        titles: of the batches of episodes: before and after inner steps, or one after the other.
        scenes: of each batch, step by step.
        environments: in which they were.
        ids: of the tasks.
        split: of the tasks.
    """

    titles: Sequence[str]
    scenes: Sequence[Sequence[Scene]]
    environments: Environments
    ids: Sequence[int]
    split: Split


def watch(
    location: str | Path,
    overrides: Iterable[str] = (),
    *,
    split: Split = "test",
    tasks: int = 4,
    drawn: bool = False,
    trust_code: bool = False,
) -> Watched:
    """Roll out a run's policy in the first tasks of a split.

    Args:
        location: a run directory (its best-validation checkpoint, else its last) or a checkpoint.
        overrides: ``key=value`` changes to the run's configuration.
        split: of the tasks.
        tasks: how many.
        drawn: whether :func:`film` is to follow, which needs MuJoCo to be told of it before it is imported.
        trust_code: as for :func:`~distmeta.runs.evaluate.evaluate`.

    Raises:
        ConfigError: the run's tasks have no actions.
    """
    if drawn and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
    snapshot, config = load_snapshot(location, overrides, trust_code=trust_code, with_data=True)
    if not isinstance(config.tasks, EnvironmentOptions):
        raise ConfigError(
            f"tasks.kind = {config.tasks.kind} has examples, and episodes are what policies do; use distmeta data show"
        )
    prepare_family(config)
    program = cast("ReinforcementProgram | RecurrentProgram", open_program(config, torch.device("cpu")))
    steps = config.evaluation.inner_steps
    titles = (
        [f"episode {number}" for number in range(1, config.tasks.episodes + 1)]
        if steps is None
        else ["before adaptation", *(f"after {step} step{'s' if step > 1 else ''}" for step in range(1, steps + 1))]
    )
    scenes: list[list[Scene]] = [[] for _ in titles]
    start = Start.of(snapshot.step, Layout.of(snapshot.meta).flatten(snapshot.meta))
    program.watch(start, split, range(tasks), lambda batch, scene: scenes[batch].append(scene))
    return Watched(titles, scenes, program.environments, range(tasks), split)


def picture(watched: Watched, path: Path) -> None:
    """Write a PNG: the paths of each task's episodes, where they move in a plane; else rewards by time.

    Raises:
        ConfigError: the name is no PNG's.
        DataError: the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: expected the name of a picture, .png")
    from matplotlib.figure import Figure

    first = watched.scenes[0][0]
    placed = watched.environments.places(first.tasks, first.state) is not None
    figure = Figure(figsize=(3 * len(watched.ids), 3.2 if placed else 2.8), layout="constrained")
    axes = figure.subplots(1, len(watched.ids), squeeze=False, sharey=not placed)[0]
    for place, axis in enumerate(axes):
        axis.set_title(f"{watched.split} task {watched.ids[place]}", fontsize=9)
        if placed:
            _paths(axis, watched, place)
        else:
            _rewards(axis, watched, place)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def _colours(count: int) -> list[Any]:
    """Grey before anything was learned, then ever darker."""
    from matplotlib import colormaps

    return ["0.75", *(colormaps["viridis_r"](each) for each in np.linspace(0.3, 1, max(count - 1, 1)))][:count]


def _paths(axis: Any, watched: Watched, task: int) -> None:
    for title, scenes, colour in zip(watched.titles, watched.scenes, _colours(len(watched.titles)), strict=True):
        found = [watched.environments.places(scene.tasks, scene.state) for scene in scenes]
        where = np.stack([each[0][task].double().numpy() for each in found if each is not None])  # (H, E, 2)
        alive = np.stack([scene.alive[task].numpy() for scene in scenes])
        for episode in range(where.shape[1]):
            own = where[alive[:, episode], episode]
            axis.plot(own[:, 0], own[:, 1], color=colour, linewidth=0.8, label=title if episode == 0 else None)
        goals = found[0][1] if found[0] is not None else None
    if goals is not None:
        axis.plot(*goals[task].tolist(), marker="*", markersize=10, color="crimson", linestyle="none", label="goal")
    axis.set_aspect("equal", adjustable="datalim")


def _rewards(axis: Any, watched: Watched, task: int) -> None:
    for title, scenes, colour in zip(watched.titles, watched.scenes, _colours(len(watched.titles)), strict=True):
        rewards = np.stack([scene.rewards[task].double().numpy() for scene in scenes])  # (H, E)
        alive = np.stack([scene.alive[task].numpy() for scene in scenes])
        axis.plot((rewards * alive).sum(1) / rewards.shape[1], color=colour, linewidth=1, label=title)
    axis.set_xlabel("step", fontsize=8)
    axis.set_ylabel("mean reward", fontsize=8)


def film(watched: Watched, path: Path) -> None:
    """Write a film of each task's first episode, batch after batch: a GIF, or an MP4 where ``imageio-ffmpeg`` is.

    Raises:
        ConfigError: the name is no film's, the environments cannot be drawn, or there is nothing that writes MP4.
        DataError: the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in FILMS:
        raise ConfigError(f"{path}: expected the name of a film, {' or '.join(FILMS)}")
    frames = list(_frames(watched))
    try:
        if kind == ".gif":
            from PIL import Image

            first, *rest = (Image.fromarray(frame) for frame in frames)
            first.save(path, save_all=True, append_images=rest, duration=1000 // FRAMES_A_SECOND, loop=0)
        else:
            _mp4(frames, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def _mp4(frames: Sequence[NDArray[np.uint8]], path: Path) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ConfigError(
            f"{path}: MP4 needs imageio-ffmpeg; pip install distmeta[rl], or give the film a name that ends in .gif"
        ) from None
    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=FRAMES_A_SECOND, macro_block_size=1)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _frames(watched: Watched) -> Iterator[NDArray[np.uint8]]:
    """(height, width, 3) pictures with their titles."""
    from PIL import Image, ImageDraw

    for place, task in enumerate(watched.ids):
        for title, scenes in zip(watched.titles, watched.scenes, strict=True):
            for scene in scenes:
                if not scene.alive[place, 0]:
                    break
                drawn = watched.environments.draw(scene.state, place, 0, HEIGHT, WIDTH)
                if drawn is None:
                    raise ConfigError("these environments cannot be drawn; leave out --video, --out makes a picture")
                image = Image.fromarray(drawn)
                ImageDraw.Draw(image).text((6, 4), f"{watched.split} task {task}, {title}", fill="white")
                yield np.asarray(image)
