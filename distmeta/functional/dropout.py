"""Dropout whose masks are a pure function of a key, and attention that every transform can pass through."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from distmeta.core.tensor_philox import random_words

# The negative saturation value of SELU, -scale * alpha.
_SELU_FLOOR = -1.7580993408473766

_Function = Callable[..., Any]


class KeyedDropout(TorchFunctionMode):
    """Within this mode dropout is keyed, and attention uses the math kernel.

    Covers ``nn.Dropout*``, ``nn.AlphaDropout``, ``nn.FeatureAlphaDropout``, their functions in
    ``torch.nn.functional``, ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention``. The masks of a
    call depend on (key, draw, number of the call within the mode, element): computing them again gives them
    again, which recomputing derivatives rely on, and ``vmap`` over keys gives every task the masks that it
    has alone.

    Args:
        key: (2,) int64, two 32-bit words; ``None`` turns dropout off.
        draw: number below 2^32 that tells the uses of a key apart, for example the inner step.

    Attributes:
        dropouts: dropout calls so far that had something to drop.
        attentions: attention calls so far.

    >>> key = torch.tensor([1, 2])
    >>> with KeyedDropout(key, draw=0):
    ...     first = torch.nn.Dropout(0.5)(torch.ones(8))
    >>> with KeyedDropout(key, draw=0):
    ...     again = torch.nn.Dropout(0.5)(torch.ones(8))
    >>> torch.equal(first, again)
    True
    """

    def __init__(self, key: Tensor | None, draw: int = 0) -> None:
        super().__init__()
        self.dropouts = 0
        self.attentions = 0
        self._key = key
        self._draw = draw
        self._handlers: dict[_Function, _Function] = {
            F.dropout: self._dropout,
            F.dropout1d: self._feature_dropout,
            F.dropout2d: self._feature_dropout,
            F.dropout3d: self._feature_dropout,
            F.alpha_dropout: self._alpha_dropout,
            F.feature_alpha_dropout: self._feature_alpha_dropout,
            F.scaled_dot_product_attention: self._attention,
            F.multi_head_attention_forward: self._multi_head_attention,
        }
        # What dropout1d and dropout3d take for one example without a batch dimension.
        self._unbatched = {F.dropout1d: 2, F.dropout3d: 4}

    def __torch_function__(
        self,
        func: _Function,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send dropout and attention to their handlers and everything else on unchanged."""
        kwargs = kwargs or {}
        handler = self._handlers.get(func)
        if handler is None:
            return func(*args, **kwargs)
        if func in self._unbatched and args[0].dim() == self._unbatched[func]:
            return handler(args[0].unsqueeze(0), *args[1:], **kwargs).squeeze(0)
        return handler(*args, **kwargs)

    def _dropout(self, inputs: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return self._scale(inputs, inputs.shape, p, training, inplace)

    def _feature_dropout(self, inputs: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return self._scale(inputs, _channels(inputs), p, training, inplace)

    def _alpha_dropout(self, inputs: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
        return self._alpha(inputs, inputs.shape, p, training, inplace)

    def _feature_alpha_dropout(
        self, inputs: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
    ) -> Tensor:
        return self._alpha(inputs, _channels(inputs), p, training, inplace)

    def _scale(self, inputs: Tensor, shape: Sequence[int], p: float, training: bool, inplace: bool = False) -> Tensor:
        """Zero with probability p, and divide the rest by 1 - p."""
        kept = self._kept(inputs, shape, p) if training else None
        if kept is None:
            return inputs
        # All is dropped at p = 1: then there is nothing to scale.
        noise = kept / (1 - p) if p < 1 else kept
        return inputs.mul_(noise) if inplace else inputs * noise

    def _alpha(self, inputs: Tensor, shape: Sequence[int], p: float, training: bool, inplace: bool) -> Tensor:
        """Keep mean and variance of SELU's outputs (Klambauer et al., NeurIPS 2017)."""
        kept = self._kept(inputs, shape, p) if training else None
        if kept is None:
            return inputs
        slope = 1 / math.sqrt((_SELU_FLOOR**2 * p + 1) * (1 - p)) if p < 1 else 0.0
        shift = slope * _SELU_FLOOR * (1 - kept - p)
        return inputs.mul_(slope * kept).add_(shift) if inplace else inputs * (slope * kept) + shift

    def _kept(self, like: Tensor, shape: Sequence[int], p: float) -> Tensor | None:
        """1 where an element stays and 0 elsewhere; ``None`` where everything stays."""
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        if p == 0:
            return None
        self.dropouts += 1
        if self._key is None:
            return None
        words = random_words(self._key, (self.dropouts, self._draw), math.prod(shape))
        return (words >= round(p * 2**32)).to(like.device, like.dtype).view(tuple(shape))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        self.attentions += 1
        if dropout_p == 0 or self._key is None:
            self.dropouts += dropout_p > 0
            return _math_attention(query, key, value, attn_mask, is_causal, scale, enable_gqa)
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        # Zeros, as torch's own attention gives, where a mask leaves nothing to attend to.
        weights: Tensor = torch.ops.aten._safe_softmax(scores, -1)
        return self._scale(weights, weights.shape, dropout_p, True) @ value

    def _multi_head_attention(self, *args: Any, **kwargs: Any) -> Any:
        # A mode is off while it handles a call, and this function calls the ones above; its body alone, run
        # with the mode on again, leads them here.
        with self:
            return _body(F.multi_head_attention_forward)(*args, **kwargs)


def _math_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """Attention by plain operations: the fused kernels have neither second derivatives nor rules for ``vmap``.

    ``sdpa_kernel`` would choose them by a switch of the whole process, which other threads would see.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
    outputs, _ = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, 0.0, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )
    return outputs  # type: ignore[no-any-return]


def _body(function: _Function) -> _Function:
    """A Python function of torch without the preamble that hands the call to the active mode."""
    scope = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _channels(inputs: Tensor) -> list[int]:
    """Shape of a mask that keeps or drops whole channels of (N, C, ...)."""
    return [*inputs.shape[:2], *(1 for _ in inputs.shape[2:])]
