"""What happens to torch's functions while a module's ``forward`` runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmeta.functional.convolution import Size, task_conv2d, task_geometry
from distmeta.functional.dropout import KeyedDropout
from distmeta.functional.kernels import Form
from distmeta.functional.kernels.blocks import conv_norm, fits
from distmeta.functional.normalisation import Stage, SupportStatistics, group_norm, normalise, staged, suits
from distmeta.functional.pooling import task_max_pool2d, task_windows

Written = Literal["nothing", "counters", "all"]
"""What norms in training mode write: what outputs depend on is tried in this order."""


class Interception(KeyedDropout):
    """Within this mode a module computes what it does in plain PyTorch, but so that every transform can pass through.

    Beside what :class:`KeyedDropout` does:

    - batch and instance norms that use the statistics of their batch write no running statistics;
    - convolutions, batch norms and max-pools are computed by ``form``, and whatever depends on how their outputs lie in
      memory gets them as plain PyTorch would have laid them out;
    - ``statistics`` records what batch norms normalise by, or gives it.

    Functions are caught, not layers: subclasses, parametrised layers and calls of ``torch.nn.functional`` are covered
    as layers are, and no class of the module is changed.

    Args:
        key: as in :class:`KeyedDropout`.
        draw: as in :class:`KeyedDropout`.
        names: the module's tensors in this pass, by name.
        form: the task-batched implementation of these layers; ``None`` for torch's own.
        statistics: of the batch norms; ``None`` for those of their batch.
        written: whether norms write their running statistics after all, which then have to be copies.

    Attributes:
        batch_norms: calls so far of batch norms that use the statistics of their batch.
        convolutions: calls so far of convolutions that have a task-batched form.
    """

    def __init__(
        self,
        key: Tensor | None,
        draw: int = 0,
        *,
        names: Mapping[str, Tensor],
        form: Form | None = None,
        statistics: SupportStatistics | None = None,
        written: Written = "nothing",
    ) -> None:
        super().__init__(key, draw)
        self.batch_norms = 0
        self.convolutions = 0
        self._names = names
        self._form = form
        self._statistics = statistics
        self._updates = written == "all"
        self._counts = written != "nothing"
        self._slope = 1.0
        self._handlers |= {
            torch.conv2d: self._conv2d,
            F.max_pool2d: self._max_pool2d,
            torch.max_pool2d: self._max_pool2d,
            F.batch_norm: self._batch_norm,
            torch.batch_norm: self._aten_batch_norm,
            F.instance_norm: self._instance_norm,
            F.group_norm: group_norm,
            staged: self._staged,
            _SET_DATA: _set_data,
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As the class says; what cannot take images whose channels lie last gets a plain copy of them."""
        if self._form is None:
            return super().__torch_function__(func, types, args, kwargs)
        try:
            return super().__torch_function__(func, types, args, kwargs)
        except RuntimeError:
            plain = [_plain(value) for value in args]
            if _in_place(func) or all(a is b for a, b in zip(plain, args, strict=True)):
                raise
        return super().__torch_function__(func, types, plain, kwargs)

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
    ) -> Tensor:
        geometry = task_geometry(input, weight, stride, padding, dilation, groups)
        if geometry is None:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
        self.convolutions += 1
        if self._form is None:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
        return task_conv2d(input, weight, bias, geometry, self._form)

    def _max_pool2d(
        self,
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        settings = (kernel_size, stride, padding, dilation, ceil_mode)
        if self._form is not None and not return_indices:
            windows = task_windows(input, *settings, self._form)
            if windows is not None:
                return task_max_pool2d(input, windows, self._form)
            input = _plain(input)  # under vmap torch's own takes no images whose channels lie last
        return F.max_pool2d(input, *settings, return_indices)  # type: ignore[arg-type, call-overload]

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        self.batch_norms += training
        if not training or (self._updates and self._statistics is None):
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        own = (running_mean, weight, bias)
        norm = tuple(self._name(tensor) for tensor in own)
        return normalise(
            input,
            weight,
            bias,
            eps,
            path=_path(norm),
            norm=(*norm, input.shape[1]),
            slope=self._slope,
            form=self._form,
            statistics=self._statistics,
        )

    def _aten_batch_norm(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool = True,
    ) -> Tensor:
        return self._batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def _instance_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if use_input_stats and not self._updates:
            running_mean = running_var = None
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)

    def _staged(self, stage: Stage, inputs: Tensor) -> Tensor:
        norm: Any = stage.norm
        own = not norm.training and (norm.running_mean is not None or norm.running_var is not None)
        layer_by_layer = own or (self._updates and self._statistics is None)
        if not layer_by_layer and (outputs := self._block(stage, inputs)) is not None:
            return outputs
        # A mode is off while it handles a call.
        with self:
            if layer_by_layer:
                return stage(inputs)
            outputs = inputs if stage.convolution is None else stage.convolution(inputs)
            self._slope = stage.slope
            try:
                return norm(outputs)  # type: ignore[no-any-return]
            finally:
                self._slope = 1.0

    def _block(self, stage: Stage, inputs: Tensor) -> Tensor | None:
        """Convolution, batch norm and rectifier in one; ``None`` where that is not possible."""
        layer, norm = stage.convolution, cast(Any, stage.norm)
        if layer is None or layer.bias is not None or type(norm) is not nn.BatchNorm2d:
            return None
        if self._form != "native" or self._statistics is not None or self._counts or norm.weight is None:
            return None
        weight = layer.weight
        settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
        geometry = task_geometry(inputs, weight, *settings)
        if geometry is None or not fits(weight) or not suits(weight, norm.weight, norm.eps):
            return None
        values = len(inputs) * prod(geometry.output((inputs.shape[2], inputs.shape[3])))
        if values < 2 or len(norm.weight) != len(weight):
            return None  # to be refused
        self.convolutions += 1
        self.batch_norms += 1
        shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
        return conv_norm(inputs, weight, norm.weight, shift, geometry, norm.eps, stage.slope)

    def _name(self, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        return next((name for name, value in self._names.items() if value is tensor), None)


_SET_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]


def _set_data(tensor: Tensor, value: Tensor) -> None:
    # torch itself refuses it for the tensors that a transform knows, and ends the process at others.
    if torch._C._functorch.maybe_current_level() is not None:
        raise RuntimeError("a tensor's .data is set, by .to() for example, which no transform can follow")
    _SET_DATA(tensor, value)


def _plain(value: Any) -> Any:
    """A tensor of images as plain PyTorch lays it out; anything else as it is."""
    return value.contiguous() if isinstance(value, Tensor) and value.dim() >= 4 else value


def _in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _path(norm: tuple[str | None, ...]) -> str:
    """How messages call a batch norm with tensors of these names."""
    name = next(filter(None, norm), None)
    if name is None:
        return "(without parameters and running statistics)"
    return repr(name.rpartition(".")[0]) if "." in name else f"of {name!r}"
