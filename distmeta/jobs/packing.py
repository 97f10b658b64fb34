"""What a job takes along to a cluster: its command, its configuration, this package and the user's own modules."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import distmeta
from distmeta.config.anchors import data_places
from distmeta.config.modules import importable, is_installed, kinds, split
from distmeta.config.schema import Config, dump_config
from distmeta.core.secrets import is_masked, mask, masked
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.storage.credentials import S3_VARIABLES
from distmeta.storage.files import below
from distmeta.sweeps.sweep import dump_sweep, load_sweep

CONFIG_IN_JOB = "config.yaml"
RUNS = "~/distmeta-runs"
"""Where runs of jobs lie by default; the head expands it, since a job's own folder is deleted after the job."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True)
class Submission:
    """What the user asks for; ``source`` is a configuration file, or a run or checkpoint on the cluster."""

    source: str
    overrides: tuple[str, ...] = ()
    name: str | None = None
    run_dir: str | None = None
    resume: bool = False
    modules: tuple[str, ...] = ()
    trust_code: bool = False
    accept_changes: bool = False

    @property
    def flags(self) -> list[str]:
        """What the user allows, as the job's command takes it."""
        given = {"--trust-code": self.trust_code, "--accept-changes": self.accept_changes}
        return [flag for flag, wanted in given.items() if wanted]


@dataclass(frozen=True)
class Job:
    """What is sent: ``arguments`` of distmeta, the configuration's text, names of modules, and notes for the user."""

    name: str
    arguments: list[str]
    modules: list[str]
    run_dir: str
    config: str | None = None
    notes: tuple[str, ...] = ()


def prepare(command: str, request: Submission) -> Job:
    """Check a request, and say what is to be sent; nothing is sent yet.

    Args:
        command: an entry of :data:`COMMANDS`.
        request: what the user asks for.

    Raises:
        ConfigError: the configuration, the name or a path is wrong, or a module cannot be found.

    >>> prepare("evaluate", Submission("s3://bucket/runs/first", ("evaluation.tasks=1000",), name="test")).arguments
    ['evaluate', 's3://bucket/runs/first', 'cluster.workers=auto', 'evaluation.tasks=1000', 'cluster.address=null']
    """
    if request.name is not None and not _NAME.fullmatch(request.name):
        raise ConfigError(
            f"--name {request.name}: expected letters, digits, '.', '_' and '-', the first one a letter or digit"
        )
    job = COMMANDS[command](request)
    for module in job.modules:
        find_module(module)
    return _without_secrets(job)


def _without_secrets(job: Job) -> Job:
    """The same, as the cluster may show it: to everybody, on its dashboard."""
    arguments, run_dir = masked(job.arguments), mask(job.run_dir)
    if arguments == job.arguments and run_dir == job.run_dir and not (job.config and is_masked(job.config)):
        return job
    note = (
        "secrets in URIs are not sent: the job takes them from the environment of the cluster's processes (for s3://: "
        f"{' and '.join(S3_VARIABLES)})"
    )
    return replace(job, arguments=arguments, run_dir=run_dir, notes=(*job.notes, note))


def _own_modules(values: Any) -> list[str]:
    """The modules of the user's own code that settings name, sorted."""
    return sorted({split(kind)[0] for kind in kinds(values).values()})


def _train(request: Submission) -> Job:
    config = load_config(request.source, request.overrides, trust_code=request.trust_code)
    name, run_dir = _place(request, config.name, config)
    modules = [*request.modules, *_own_modules(config.model_dump(mode="json"))]
    config, notes = _for_a_job(config)
    arguments = [
        "train",
        CONFIG_IN_JOB,
        "--run-dir",
        run_dir,
        *(["--resume"] if request.resume else []),
        *request.flags,
    ]
    return Job(name, arguments, modules, run_dir, dump_config(config), notes)


def _place(request: Submission, name: str, config: Config) -> tuple[str, str]:
    """The job's name, and where its files go."""
    if request.resume and request.run_dir is None and request.name is None:
        raise ConfigError("--resume: name the directory of the run to continue, --run-dir RUN_DIR on the cluster")
    name = request.name or _stamped(name)
    run_dir = request.run_dir or below(config.run.dir if _is_anchored(config.run.dir) else RUNS, name)
    _check_place("--run-dir", run_dir)
    return name, run_dir


def _tune(request: Submission) -> Job:
    overrides = (*request.overrides, "cluster.address=null")
    sweep = load_sweep(request.source, overrides, trust_code=request.trust_code)
    config = sweep.config
    name, run_dir = _place(request, sweep.options.name, config)
    space = {key: list(domain.values) for key, domain in sweep.options.space.items()}
    modules = [*request.modules, *_own_modules([config.model_dump(mode="json"), space])]
    arguments = ["tune", CONFIG_IN_JOB, "--run-dir", run_dir, *(["--resume"] if request.resume else []), *request.flags]
    return Job(name, arguments, modules, run_dir, dump_sweep(sweep), tuple(_data_notes(config)))


def _data_notes(config: Config) -> list[str]:
    return [
        f"{key} = {place} is taken for a file or folder on the cluster's head"
        for key, place in data_places(config.tasks.model_dump(mode="json")).items()
        if "://" not in place
    ]


def _for_a_job(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The configuration with workers on the job's own cluster, and what was changed."""
    cluster, notes = config.cluster, []
    if "workers" not in cluster.model_fields_set:
        cluster = cluster.model_copy(update={"workers": "auto"})
        notes.append("cluster.workers is not set: using auto, a worker on every GPU or core of the cluster")
    if cluster.address is not None:
        notes.append(f"cluster.address = {cluster.address} is left out: a job runs on the cluster that it is sent to")
        cluster = cluster.model_copy(update={"address": None})
    return config.model_copy(update={"cluster": cluster}), (*notes, *_data_notes(config))


def _evaluate(request: Submission) -> Job:
    if request.run_dir is not None or request.resume or request.accept_changes:
        raise ConfigError(
            "--run-dir, --resume and --accept-changes are for --command train; to evaluate, name the run as "
            "RUN_OR_CHECKPOINT"
        )
    _check_place("RUN_OR_CHECKPOINT", request.source)
    # The run's own configuration says where it was trained; later overrides win.
    overrides = ("cluster.workers=auto", *request.overrides, "cluster.address=null")
    arguments = ["evaluate", request.source, *overrides, *request.flags]
    return Job(request.name or _stamped("evaluate"), arguments, list(request.modules), request.source)


COMMANDS: dict[str, Callable[[Submission], Job]] = {"train": _train, "evaluate": _evaluate, "tune": _tune}
"""What a job can do; each entry checks a request and makes a job of it."""


def _stamped(name: str) -> str:
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _is_anchored(location: str) -> bool:
    """Whether a place is the same wherever one looks from: a URI, an absolute path, or one in the home folder."""
    return "://" in location or location.startswith(("/", "~"))


def _check_place(what: str, location: str) -> None:
    if not _is_anchored(location):
        raise ConfigError(
            f"{what} = {location}: a relative path means nothing to a job, whose own folder is deleted after it; give "
            "an absolute path on the cluster's head, '~/...' in quotes, or a URI"
        )


# Files ------------------------------------------------------------------------------------------------------------


def pack(job: Job, folder: Path) -> list[str]:
    """Fill a job's working directory; gives what to tell the user.

    It comes first on the import path of the job and of its workers, so that they run this very package, whatever is
    installed on the cluster.
    """
    shutil.copytree(Path(distmeta.__file__).parent, folder / "distmeta", ignore=_LEFT_OUT)
    record = folder / f"distmeta-{distmeta.__version__}.dist-info"
    record.mkdir()  # for the version that checkpoints name
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: distmeta\nVersion: {distmeta.__version__}\n")
    if job.config is not None:
        (folder / CONFIG_IN_JOB).write_text(job.config, encoding="utf-8")
    return [note for module in job.modules for note in _pack_module(module, folder)]


def find_module(name: str) -> ModuleSpec:
    """A module's top-level package or file, looked for as :mod:`distmeta.models.user` does.

    Raises:
        ConfigError: there is none.
    """
    top = name.partition(".")[0]
    with importable(os.getcwd()):
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
    if spec is None:
        raise ConfigError(
            f"there is no module {top} to send along; it should be a file or package in the current directory, or "
            "installed"
        )
    return spec


def _pack_module(name: str, folder: Path) -> Iterable[str]:
    spec = find_module(name)
    places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    if spec.name == "distmeta":
        return
    if all(is_installed(place) for place in places):
        yield f"{spec.name} is installed here, and not sent: the cluster has to have it installed too"
        return
    for place in places:
        if place.is_dir():
            shutil.copytree(place, folder / spec.name, ignore=_LEFT_OUT, dirs_exist_ok=True)
        else:
            shutil.copy(place, folder)
    yield f"{spec.name} is sent along from {places[0]}"
