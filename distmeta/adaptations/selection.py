"""Which parameters a task changes."""

from __future__ import annotations

from distmeta.adaptations.options import GradientDescentOptions
from distmeta.errors import ConfigError
from distmeta.models.base import Network
from distmeta.models.insertions import matches, warps


def adapted_names(options: GradientDescentOptions, network: Network) -> tuple[str, ...]:
    """The parameter names that a task changes, sorted.

    Raises:
        ConfigError: there are none, or the head cannot be told.
    """
    names, adapt = sorted(network.parameters), options.adapt
    if adapt == "all":
        chosen = tuple(names)
    elif adapt in ("head", "body"):
        head = _head(options.head, network, str(adapt))
        chosen = tuple(name for name in names if (name in head) == (adapt == "head"))
    else:
        chosen = tuple(name for name in names if matches(name, adapt))
    fixed = {*warps(names), *(network.norms if options.step_norms else ())}
    left = tuple(name for name in chosen if name not in fixed)
    if not left:
        raise ConfigError(
            f"algorithm.adapt = {adapt!r} matches no trainable parameter of the model that a task may change; there "
            f"are {', '.join(name for name in names if name not in fixed)}"
        )
    return left


def _head(named: str | None, network: Network, adapt: str) -> tuple[str, ...]:
    """The parameter names of the head."""
    head = network.head if named is None else network.names_below(named)
    if head:
        return head
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in network.parameters))
    if named is not None:
        raise ConfigError(f"algorithm.head = {named} is no submodule with trainable parameters; there are {layers}")
    raise ConfigError(
        f"algorithm.adapt = {adapt}: the model's outputs do not come from one trainable layer; name the head with "
        f"algorithm.head, one of {layers}"
    )
