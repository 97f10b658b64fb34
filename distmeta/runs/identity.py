"""What a run is computed from, by hash: its data, the user's code, and weights that nothing learns.

A resumed run is refused where one of them differs, by name, since it would not be the same run any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distmeta.adaptations import ADAPTATIONS
from distmeta.config.modules import code_of, kinds, noted
from distmeta.config.schema import CALLBACKS, Config
from distmeta.core.hashing import content_hash
from distmeta.errors import ChangedError
from distmeta.programs.engine.assembly import build_network
from distmeta.tasks import TASKS

log = logging.getLogger(__name__)

SHOWN = 8
"""Changes of a kind that a message lists."""

ACCEPTED = "accepted"
"""Where an identity tells of changes that a user has accepted: ``[{"step", "changes"}]``, the earliest first."""

_ADVICE = (
    "restore what has changed, start a new run in another --run-dir, or go on from here with --accept-changes "
    "(accept_changes=True in Python), which is recorded in the run's checkpoints and metrics"
)


def identify(config: Config) -> dict[str, Any]:
    """The identity of a run as it begins; its family is prepared and its module built before.

    Returns:
        ``data``: content hash by data set, ``code``: SHA-256 by the path of a file, ``frozen``: SHA-256 by the name of
        a parameter that is not trained, or of a buffer, as the module is built.

    >>> from distmeta.loading import load_config
    >>> identify(load_config({"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}))
    {'data': {}, 'frozen': {}, 'code': {}}
    """
    return {**_things(config), "code": _code(config, (), loaded=True)}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words, each thing by its name.

    >>> changes({"code": {"net.py": "a", "old.py": "b"}}, {"code": {"net.py": "c"}})
    ['code: net.py has changed', 'code: old.py is gone']
    """
    parts = (("data", "data"), ("code", "code"), ("frozen", "frozen weights"))
    return [line for part, words in parts for line in _changed(words, before.get(part, {}), now.get(part, {}))]


def _changed(words: str, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    lines = [
        f"{words}: {name} {'is gone' if name not in now else 'has changed'}"
        for name, digest in before.items()
        if now.get(name) != digest
    ]
    lines += [f"{words}: {name} is new" for name in now if name not in before]
    rest = len(lines) - SHOWN
    return [*lines[:SHOWN], f"{words}: {rest} more"] if rest > 0 else lines


def resumed(config: Config, before: Mapping[str, Any], step: int, accept: bool) -> tuple[dict[str, Any], list[str]]:
    """The identity with which a run goes on, and the changes that were accepted for it.

    Args:
        config: the resolved configuration of the session.
        before: the identity of the checkpoint; that of older versions is empty, and compared with nothing.
        step: of the checkpoint.
        accept: whether the user accepts changes.

    Raises:
        ChangedError: something differs, and that is not accepted.
    """
    if not before:
        log.info(
            "the checkpoint is of an older version, which kept no hashes: whether data, code and frozen weights have "
            "changed since is not known"
        )
        return identify(config), []
    now, found = _compare(config, before)
    if found and not accept:
        raise _refusal(f"what the run was computed from has changed since step {step}", found)
    for change in found:
        log.warning("accepted at step %d: %s", step, change)
    now["code"] |= _code(config, (), loaded=True)
    accepted = [*before.get(ACCEPTED, []), *([{"step": step, "changes": found}] if found else [])]
    return {**now, **({ACCEPTED: accepted} if accepted else {})}, found


def check_same(config: Config, before: Mapping[str, Any], name: str) -> None:
    """Refuse to go on with something that was computed from other data, code or frozen weights.

    Raises:
        ChangedError: naming what has changed.
    """
    _, found = _compare(config, before)
    if found:
        raise _refusal(f"what {name} was computed from has changed", found)


def differing(config: Config, before: Mapping[str, Any], parts: Iterable[str]) -> list[str]:
    """What differs in some parts of an identity, in words; nothing where the earlier one has no such part."""
    now = {part: _PARTS[part](config) for part in parts if before.get(part)}
    return changes({part: before.get(part, {}) for part in now}, now)


def _compare(config: Config, before: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The identity now, and what differs; what this process happens to have loaded besides is no change."""
    now = {**_things(config), "code": _code(config, before.get("code", {}), loaded=False)}
    return now, changes(before, now)


def _refusal(what: str, found: Iterable[str]) -> ChangedError:
    return ChangedError(f"{what}:\n  " + "\n  ".join(found) + f"\n{_ADVICE}")


def _things(config: Config) -> dict[str, Any]:
    return {part: find(config) for part, find in _PARTS.items()}


def _data(config: Config) -> dict[str, str]:
    return dict(TASKS[config.tasks.kind].contents(config.tasks))


def _code(config: Config, also: Iterable[str], loaded: bool) -> dict[str, str]:
    """Hashes of the user's files: those that the sources show, others, and those that were seen to be loaded."""
    values = config.model_dump(mode="json", exclude={CALLBACKS})
    seen = [path for kind in kinds(values).values() for path in noted(kind)] if loaded else []
    return code_of(values, [*also, *seen])


def _frozen(config: Config) -> dict[str, str]:
    """Hashes of what the freshly built module holds and nothing learns: it is built once more, so that it is fresh."""
    spec = TASKS[config.tasks.kind].spec(config.tasks)
    needs_head = ADAPTATIONS.options[config.algorithm.adaptation].needs_head
    module = build_network(config, spec, spec.outputs if needs_head else None)
    fixed = {name: value for name, value in module.named_parameters() if not value.requires_grad}
    return {name: content_hash(value) for name, value in {**fixed, **dict(module.named_buffers())}.items()}


_PARTS: dict[str, Callable[[Config], dict[str, str]]] = {"data": _data, "frozen": _frozen}
