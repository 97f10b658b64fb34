"""Task families: distributions of tasks. One file each, its settings in
:mod:`~distmeta.tasks.options`, one line in the table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distmeta.config.registry import Registry
from distmeta.config.sections import TaskOptions
from distmeta.core.lazy import lazily
from distmeta.tasks.base import Episode, TaskFamily, episodes
from distmeta.tasks.options import (
    AntDirOptions,
    AntGoalOptions,
    BanditOptions,
    CartPoleOptions,
    CifarFSOptions,
    Clinc150Options,
    CubOptions,
    GlyphOptions,
    GymnasiumOptions,
    HalfCheetahDirOptions,
    HalfCheetahVelOptions,
    MdpOptions,
    MetaWorldOptions,
    MiniImageNetOptions,
    NavigationOptions,
    OmniglotOptions,
    OwnImageOptions,
    PendulumOptions,
    SinusoidOptions,
    TableOptions,
    TextOptions,
    TieredImageNetOptions,
    UnlabelledOptions,
    WalkerParamsOptions,
)

if TYPE_CHECKING:
    import torch

    from distmeta.config.schema import Config
    from distmeta.tasks.datasets import from_dataset
    from distmeta.tasks.glyphs import Glyphs
    from distmeta.tasks.omniglot import Omniglot
    from distmeta.tasks.sinusoid import Sinusoid
    from distmeta.tasks.table import Table
    from distmeta.tasks.texts import Clinc150, Text
    from distmeta.tasks.unlabelled import Unlabelled
else:
    __getattr__ = lazily(
        __name__,
        {
            "Clinc150": "texts:Clinc150",
            "Glyphs": "glyphs:Glyphs",
            "Omniglot": "omniglot:Omniglot",
            "Sinusoid": "sinusoid:Sinusoid",
            "Table": "table:Table",
            "Text": "texts:Text",
            "Unlabelled": "unlabelled:Unlabelled",
            "from_dataset": "datasets:from_dataset",
        },
    )

TASKS: Registry[TaskFamily, TaskOptions] = Registry(
    "tasks.kind",
    "a class with the methods of distmeta.tasks.base.TaskFamily, or a function of one task",
    {
        "sinusoid": (SinusoidOptions, "distmeta.tasks.sinusoid:Sinusoid"),
        "glyphs": (GlyphOptions, "distmeta.tasks.glyphs:Glyphs"),
        "omniglot": (OmniglotOptions, "distmeta.tasks.omniglot:Omniglot"),
        "table": (TableOptions, "distmeta.tasks.table:Table"),
        "unlabelled": (UnlabelledOptions, "distmeta.tasks.unlabelled:Unlabelled"),
        "text": (TextOptions, "distmeta.tasks.texts:Text"),
        "clinc150": (Clinc150Options, "distmeta.tasks.texts:Clinc150"),
        "images": (OwnImageOptions, "distmeta.tasks.own_images:OwnImages"),
        "cifar_fs": (CifarFSOptions, "distmeta.tasks.published_images:CifarFS"),
        "mini_imagenet": (MiniImageNetOptions, "distmeta.tasks.published_images:MiniImageNet"),
        "tiered_imagenet": (TieredImageNetOptions, "distmeta.tasks.published_images:TieredImageNet"),
        "cub": (CubOptions, "distmeta.tasks.published_images:Cub"),
        "gymnasium": (GymnasiumOptions, "distmeta.tasks.environments.users:GymnasiumTasks"),
        "bandits": (BanditOptions, "distmeta.tasks.environments.tabular:Bandits"),
        "mdps": (MdpOptions, "distmeta.tasks.environments.tabular:Mdps"),
        "pendulum": (PendulumOptions, "distmeta.tasks.environments.classic:Pendulum"),
        "cartpole": (CartPoleOptions, "distmeta.tasks.environments.classic:CartPole"),
        "half_cheetah_dir": (HalfCheetahDirOptions, "distmeta.tasks.environments.locomotion:HalfCheetahDir"),
        "half_cheetah_vel": (HalfCheetahVelOptions, "distmeta.tasks.environments.locomotion:HalfCheetahVel"),
        "ant_dir": (AntDirOptions, "distmeta.tasks.environments.bodies:AntDir"),
        "ant_goal": (AntGoalOptions, "distmeta.tasks.environments.bodies:AntGoal"),
        "metaworld": (MetaWorldOptions, "distmeta.tasks.environments.metaworld:MetaWorld"),
        "walker_params": (WalkerParamsOptions, "distmeta.tasks.environments.bodies:WalkerParams"),
        "navigation": (NavigationOptions, "distmeta.tasks.environments.navigation:Navigation"),
    },
    TaskOptions,
    "distmeta.tasks.functions:FUNCTIONS",
)

__all__ = [
    "TASKS",
    "Clinc150",
    "Episode",
    "Glyphs",
    "Omniglot",
    "Sinusoid",
    "Table",
    "TaskFamily",
    "Text",
    "Unlabelled",
    "episodes",
    "fit_family",
    "from_dataset",
    "open_family",
    "prepare_family",
    "task_fingerprint",
    "task_options",
    "with_fitted",
]


def task_options(values: Mapping[str, Any], section: str = "tasks") -> type[TaskOptions]:
    """The settings class of ``values["kind"]``; a ``ValueError`` where there is no such kind.

    Args:
        values: settings of the section.
        section: where they stand.
    """
    from distmeta.config.problems import choose

    options: type[TaskOptions] = choose(TASKS.options, values.get("kind"), f"{section}.kind")
    return options


def open_family(config: Config, device: torch.device) -> TaskFamily:
    """The configured family, opened on a device.

    Raises:
        DataError: data is missing, damaged or incomplete.
        ConfigError: an episode asks for more than the data has.
    """
    family = TASKS[config.tasks.kind](config.tasks, episodes(config), device)
    if hasattr(family, "use"):  # a class of the user's that is no subclass may have less
        family.use(spare_cores(config))
    return family


def spare_cores(config: Config) -> int:
    """How many processes a worker may start to sample in: its share of this machine's cores, less its threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = config.cluster.workers
    if wanted == "auto":
        workers = max(1, int(cores / config.cluster.cpus_per_worker))
    else:
        workers = wanted if isinstance(wanted, int) else wanted.max
    return max(1, cores // max(1, workers) - config.run.threads)


def task_fingerprint(config: Config) -> dict[str, str]:
    """What decides the configured tasks beside their settings; on it all workers of a run agree."""
    family = TASKS[config.tasks.kind]  # a class of the user's that is no subclass may have less
    return dict(getattr(family, "fingerprint", TaskFamily.fingerprint)(config.tasks))


def fit_family(config: Config) -> Config:
    """The configuration with what the family learns from its training split, unless it has that already.

    It comes before all that builds the network, whose inputs may depend on it. Raises as preparing does.
    """
    if config.tasks.fitted is not None:
        return config
    return with_fitted(config, TASKS[config.tasks.kind].fit(config.tasks, episodes(config)))


def with_fitted(config: Config, fitted: Mapping[str, Any] | None) -> Config:
    """The configuration with what a family learned before, for example that of a checkpoint."""
    if fitted is None:
        return config
    return config.model_copy(update={"tasks": config.tasks.with_fitted(fitted)})


def prepare_family(config: Config) -> None:
    """Fetch or build what the family needs on this host, and check its episodes; raises as opening does."""
    TASKS[config.tasks.kind].prepare(config.tasks, episodes(config))
