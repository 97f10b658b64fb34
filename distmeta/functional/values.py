"""Other values in a module's parameters, and whether results agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distmeta.functional.hidden_state import kept
from distmeta.functional.inspection import hookable


def shared_tensor(module: nn.Module, other: nn.Module) -> str | None:
    """The first tensor of a module that is one of another's as well, ``None`` without such."""
    own = {id(tensor) for tensor in tensors_of(module).values()}
    return next((name for name, tensor in tensors_of(other).items() if id(tensor) in own), None)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@contextmanager
def holding_values(module: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the module's parameters have these values; after it all is as before."""
    own = tensors_of(module)
    scripted = not all(map(hookable, module.modules()))  # its buffers cannot be replaced
    before = {name: tensor.detach().clone() for name, tensor in own.items() if name in parameters or scripted}
    with kept(module):
        for layer in module.modules():
            for name, buffer in layer._buffers.items():
                if buffer is not None and hookable(layer):
                    layer._buffers[name] = buffer.clone()
        try:
            _fill(own, parameters)
            yield
        finally:
            _fill(own, before)


def _fill(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        if 0 in own[name].stride():  # expanded, which cannot be written
            own[name].data = value.clone()
        else:
            own[name].data.copy_(value)  # in place, so that views follow


def nearby(value: Tensor) -> Tensor:
    """Nearby values, other ones for every element."""
    steps = torch.arange(value.numel(), device=value.device).view(value.shape)
    return value * 1.1 + 0.05 * torch.sin(1.0 + steps).to(value.dtype)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two results of the same operations are equal, up to what the order of parallel additions changes."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b)) or close(a, b, 1e-4 if a.is_cuda else 1e-6)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two results agree up to rounding, relative to their size."""
    if a.shape != b.shape:
        return False
    a, b = (torch.nan_to_num(value.detach().double()) for value in (a, b))
    return bool((a - b).norm() <= tolerance * (b.norm() + 1e-12))
