"""Why a network cannot be relied on, and what its author can do: one message for each reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distmeta.errors import ConfigError
from distmeta.functional.hints import hint
from distmeta.functional.places import Place


def cannot_run(module: nn.Module, error: Exception) -> ConfigError:
    """It fails where others stand in the place of its parameters."""
    scripted = [path for path, layer in module.named_modules() if isinstance(layer, torch.jit.ScriptModule)]
    advice = hint(error) or "let forward take its parameters as they are given"
    if scripted:
        advice = f"its {scripted[0] or 'whole'} is TorchScript, use it as it was before torch.jit.script or trace"
    return ConfigError(
        "the model cannot run with parameters put in place of its own: "
        f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; {advice}"
    )


def random(source: str) -> ConfigError:
    """It draws random numbers that no key controls."""
    return ConfigError(
        f"the model draws random numbers from {source} in forward, and these cannot be repeated from a task's key; use "
        "nn.Dropout or the dropout functions of torch.nn.functional, which are keyed (to leave out a whole block at "
        "random: x + F.dropout(torch.ones(1), p) * block(x))"
    )


def without_derivatives() -> ConfigError:
    """There is nothing to learn by."""
    return ConfigError(
        "the model's outputs have no derivative by any of its parameters: they are detached, computed under "
        "torch.no_grad(), or no floating-point numbers, so that nothing would be learned; let the outputs come from "
        "the parameters by differentiable operations"
    )


def stateful(places: list[Place]) -> ConfigError:
    """Its outputs depend on what these places hold."""
    names = ", ".join(place.label for place in places[:5])
    where = f"what forward keeps in {names}" if names else "what forward keeps outside of the module, or the time"
    return ConfigError(
        f"the model's outputs depend on earlier calls, by {where}: they would differ with the number of workers; let "
        "them depend on inputs and parameters alone, pass a schedule's value as a constant, or keep it in a buffer "
        "(register_buffer), which every call sees as it is at the start"
    )


def writing(name: str, operation: str) -> ConfigError:
    """It writes a parameter."""
    return ConfigError(
        f"the model's forward writes its parameter {name!r} in place ({operation}), which adaptation and its "
        "derivatives cannot follow; compute the changed weight without writing it: instead of max_norm, "
        "F.embedding(x, w * (max_norm / w.norm(dim=-1, keepdim=True).clamp(min=1e-7)).clamp(max=1)), or a "
        "parametrisation (torch.nn.utils.parametrize)"
    )


def viewing(name: str, parameter: str) -> ConfigError:
    """Something of it lies in the memory of a parameter."""
    return ConfigError(
        f"the model's {name} is another view of the memory of its parameter {parameter!r}, which does not change in "
        f"place here; use {parameter} itself, which may have several names, or make {name} a copy (.detach().clone())"
    )


def holding_results(name: str) -> ConfigError:
    """It reads a constant that should be none."""
    return ConfigError(
        f"the model's forward reads {name}, which was computed from parameters before the call and does not follow "
        "them here; compute it in forward"
    )


def check_equal(built: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    """Refuse a factory that does not give the same twice, as each process calls it for itself."""
    other = [name for name in {**built, **again} if not _equal(built.get(name), again.get(name))]
    if other:
        raise other_again(other[0])


def other_again(what: str) -> ConfigError:
    """The factory draws random numbers that are not seeded."""
    return ConfigError(
        f"the model's factory gives another module each time it is called: {what} differs, but every process calls it "
        "for itself; draw from torch's generator of the CPU, which is seeded, or seed your own in the factory"
    )


def same_again(name: str) -> ConfigError:
    """The factory gives what it gave before."""
    return ConfigError(
        f"the model's factory gives the same {name} each time it is called; let it make a new module "
        "(copy.deepcopy of what is kept), since several are used at once"
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point():
        return torch.allclose(a.double(), b.double(), equal_nan=True)
    return torch.equal(a, b)


def detached(names: list[str], noted: list[str]) -> ConfigError:
    """It does not read the parameters that it is given; ``noted``: attributes that those lack."""
    which = ", ".join(map(repr, names[:3])) or "its parameters"
    if noted:
        return ConfigError(
            f"the model's outputs do not follow {which} when others are put in their place, which are plain tensors "
            f"without {', '.join(noted[:3])}; keep such attributes on the layer, not on its parameter"
        )
    return ConfigError(
        f"the model's outputs do not follow {which} when others are put in their place: forward reads them otherwise "
        "than as attributes of their layers (from a list, a tuple, a tensor made in __init__; from a closure, a "
        "global, a class, a cache or an object that leads to another copy of the module), or asks whether they are "
        "nn.Parameter; read the attributes of self in forward, or keep the parameters in nn.ParameterList or "
        "nn.ParameterDict"
    )
