"""Exports a trained learner as an artefact: a folder that needs neither the run nor its data."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distmeta.config.anchors import data_places
from distmeta.config.schema import CALLBACKS, Config, written_values
from distmeta.core.hashing import sha256
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError, StorageError
from distmeta.runs import artefact, card, checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.runs.directory import RESULT, RunDirectory
from distmeta.runs.evaluate import load_snapshot
from distmeta.runs.inference import AdaptedModel
from distmeta.runs.learners import load
from distmeta.storage.files import Storage
from distmeta.storage.manifests import CHECKPOINTS, FITTED, META, PARAMS, name_of
from distmeta.version import __version__
from distmeta.workers.bundle import modules_of

log = logging.getLogger(__name__)

NOWHERE = "artefact://data-is-not-part-of-it"
"""Where an artefact's configuration says that data lies, in families that need to be told a place."""

CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        location: of the artefact.
        files: their names and sizes in bytes.
    """

    location: str
    files: Mapping[str, int]


def export(
    run: str | Path,
    out: str | Path,
    overrides: Iterable[str] = (),
    *,
    trust_code: bool = False,
    program: bool = False,
    onnx: bool = False,
    support: tuple[Any, Any] | None = None,
) -> Exported:
    """Write an artefact: parameters (safetensors), the configuration without places, what the task family has learned
    (standardisation, tokenizer), sources of the user's modules, versions, hashes of all, and a card for people.

    Args:
        run: a run directory (its best-validation checkpoint, else its last), a checkpoint, or another artefact.
        out: the folder or URI to write; an artefact that is there is replaced, anything else is not.
        overrides: ``key=value`` changes to the run's configuration.
        trust_code: run the code that the run's configuration names, as for :func:`~distmeta.runs.learners.load`.
        program: write programs of ``torch.export`` too, see :mod:`distmeta.runs.programs`.
        onnx: write the prediction of an adapted model in ONNX too.
        support: ``(x_support, y_support)`` of a task; what it adapts to is then in the programs of prediction, and
            decides the number of support examples.

    Raises:
        StorageError: there is nothing to export, or ``out`` holds something else.
        ConfigError: an override is wrong, a program cannot be made of this learner, or an extra is missing.
        TrustError: the run names code that nobody has allowed.

    Example::

        distmeta.export("runs/omniglot_5w1s_maml", "artefacts/omniglot")
        learner = distmeta.load("artefacts/omniglot")
    """
    folder, overrides = _target(out), list(overrides)
    snapshot, config = load_snapshot(run, overrides, trust_code=trust_code)
    modules = modules_of(config)
    _warn_of_changes(snapshot, modules)
    files = _tensors(snapshot) | {f"{artefact.CODE}/{name}": content for name, content in modules.items()}
    if snapshot.fitted is not None:
        files[FITTED] = checkpoint.fitted_json(_without_place(snapshot.fitted))
    if program or onnx:
        files |= _programs(run, overrides, trust_code, program, onnx, support)
    elif support is not None:
        raise ConfigError("a support set is for programs; ask for program or onnx, too")
    values = _values(snapshot, config, modules, _measured(run, snapshot))
    files[CARD] = card.text(config, values, sorted(files)).encode()
    files[artefact.ARTEFACT] = artefact.description(values, files)
    folder.parent.publish(Path(folder.location.rstrip("/")).name, files)
    return Exported(folder.location, {name: len(content) for name, content in files.items()})


def _values(
    snapshot: Snapshot, config: Config, modules: Mapping[str, bytes], meta_test: dict[str, Any] | None
) -> dict[str, Any]:
    """What ``artefact.json`` says beside the files' hashes."""
    return {
        "step": snapshot.step,
        "tasks": snapshot.tasks,
        "config": portable(config),
        "plan": snapshot.plan,
        "versions": {"distmeta": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "code": sorted(modules),
        "frozen": dict(snapshot.identity.get("frozen", {})),
        "in_module": sorted(checkpoint.in_module(snapshot)),
        "meta_test": meta_test,
    }


def portable(config: Config) -> dict[str, Any]:
    """What of a configuration a learner needs, as JSON values without places, hosts and credentials.

    >>> from distmeta.loading import load_config
    >>> tasks = {"kind": "omniglot", "root": "/data"}
    >>> config = load_config({"tasks": tasks, "model": {"kind": "conv4"}, "algorithm": {"name": "maml"}})
    >>> sorted(portable(config))
    ['algorithm', 'evaluation', 'model', 'name', 'outer', 'run', 'schema', 'seed', 'tasks']
    """
    values = written_values(config)
    values = {key: value for key, value in values.items() if key not in ("cluster", "engine", CALLBACKS)}
    values["run"] = {"threads": config.run.threads}
    for place in data_places(values["tasks"]):
        *path, last = place.split(".")
        section, options = values, config
        for step in path:
            section, options = section[step], getattr(options, step)
        if type(options).model_fields[last].is_required():
            section[last] = NOWHERE
        else:
            del section[last]
    values["tasks"] = _without_tokenizer(values["tasks"])
    return values


def _without_tokenizer(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the place of a tokenizer's file, whose content was learned with the rest."""
    tokenizer = values.get("tokenizer")
    if not isinstance(tokenizer, str) or "/" not in tokenizer:
        return dict(values)
    return {**values, "tokenizer": f"artefact://{tokenizer.rpartition('/')[2]}"}


def _without_place(fitted: Mapping[str, Any]) -> dict[str, Any]:
    settings = fitted.get("settings")
    return {**fitted, "settings": _without_tokenizer(settings)} if isinstance(settings, Mapping) else dict(fitted)


def _target(out: str | Path) -> Storage:
    """The folder to write, which must be free."""
    folder = Storage.at(out)
    if folder.list() and not artefact.is_artefact(folder):
        raise StorageError(f"{folder.location} holds something else than an artefact; name another folder")
    return folder


def _tensors(snapshot: Snapshot) -> dict[str, bytes]:
    shared = checkpoint.in_module(snapshot)
    files = {PARAMS: checkpoint.safetensors_of(snapshot.module_state)}
    if own := {name: value for name, value in snapshot.meta.items() if name not in shared}:
        files[META] = checkpoint.safetensors_of(own)
    return files


def _warn_of_changes(snapshot: Snapshot, modules: Mapping[str, bytes]) -> None:
    recorded = snapshot.identity.get("code", {})
    for name, content in modules.items():
        if name in recorded and recorded[name] != sha256(content):
            log.warning("code: %s has changed since the run; the artefact gets it as it is now", name)


def _measured(run: str | Path, snapshot: Snapshot) -> dict[str, Any] | None:
    """The meta-test of exactly this checkpoint, if there was one."""
    folder = Storage.at(artefact.fetched(run))
    if artefact.is_artefact(folder):
        found: dict[str, Any] | None = artefact.read_description(folder)["meta_test"]
        return found
    if not folder.exists(RESULT):
        return None
    result = RunDirectory(folder).read_result()
    name = result["checkpoint"].rpartition("/")[2]
    if re.fullmatch(r"step-[0-9]{8,}", name) is None:
        raise StorageError(
            f"{folder.child(RESULT).location} is damaged: checkpoint: expected a name such as "
            f"{CHECKPOINTS}/{name_of(snapshot.step)}, got {shown(result['checkpoint'])}; write it anew with --resume"
        )
    same = name == name_of(snapshot.step)
    return json.loads(json.dumps(result["meta_test"])) if same else None


def _programs(
    run: str | Path,
    overrides: list[str],
    trust_code: bool,
    program: bool,
    onnx: bool,
    support: tuple[Any, Any] | None,
) -> dict[str, bytes]:
    from distmeta.runs import programs  # they bring torch's compiler

    learner = load(run, overrides, trust_code=trust_code)
    model: AdaptedModel | None = None if support is None else learner.adapt(*support)
    return programs.of(learner, model, support, program=program, onnx=onnx)
