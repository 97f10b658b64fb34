"""The outer optimizer: torch's own fused updates, without the half of torch that its classes import.

Whatever is derived from ``torch.optim.Optimizer`` imports torch's compiler at its first use, which takes as long as
torch itself. The updates are public functions of ``torch.optim`` too, and the state here is what its classes give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from distmeta.errors import StorageError

_BETAS = 0.9, 0.999
_EPS = 1e-8

_ADAM = {"step": False, "exp_avg": True, "exp_avg_sq": True}
MOMENTS: dict[str, dict[str, bool]] = {"sgd": {"momentum_buffer": True}, "adam": _ADAM, "adamw": _ADAM}
"""What each optimizer's state holds, and whether that has an element for each meta-parameter."""


class OuterOptimizer:
    r"""SGD with momentum, Adam or AdamW, in place on named vectors.

    With the gradient :math:`g`, the rate :math:`a` and the weight decay :math:`w`, element by element:

    - ``sgd``: :math:`b \leftarrow m b + g + w\theta`, :math:`\theta \leftarrow \theta - a b`
    - ``adam``: Kingma and Ba 2015, Algorithm 1, of :math:`g + w\theta`
    - ``adamw``: Loshchilov and Hutter 2019, Algorithm 2: :math:`\theta \leftarrow (1 - aw)\theta`, then Adam with
      :math:`g`

    with :math:`\beta = (0.9, 0.999)` and :math:`\epsilon = 10^{-8}`. One pass over memory, without vectors in between;
    the results and :meth:`state_dict` are those of ``torch.optim`` with ``fused=True``, to the bit.

    Args:
        kind: ``sgd``, ``adam`` or ``adamw``.
        vectors: what is optimized, by name, each a contiguous float32 vector on the CPU; changed by :meth:`step`.
        lr: learning rate of all of them; :attr:`rates` may be changed before a step.
        momentum: of ``sgd``.
        weight_decay: by name.

    Attributes:
        rates: the learning rate of each vector in the next step.

    >>> vector = torch.tensor([1.0, 2.0])
    >>> optimizer = OuterOptimizer("sgd", {"model": vector}, 0.5, 0.0, {"model": 0.0})
    >>> optimizer.step({"model": torch.tensor([1.0, 0.0])})
    >>> vector
    tensor([0.5000, 2.0000])
    """

    def __init__(
        self,
        kind: str,
        vectors: Mapping[str, Tensor],
        lr: float,
        momentum: float,
        weight_decay: Mapping[str, float],
    ) -> None:
        self._kind = kind
        self._vectors = dict(vectors)
        self._momentum = momentum
        self._decay = weight_decay
        self._state: dict[str, dict[str, Tensor]] = {name: {} for name in vectors}
        self.rates = dict.fromkeys(vectors, lr)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One update of all vectors."""
        update = self._sgd if self._kind == "sgd" else self._adam
        for name, vector in self._vectors.items():
            update(name, vector, gradients[name])

    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim`` gives it: moments, none before the first step, and settings, vector by vector."""
        state = {number: dict(moments) for number, moments in enumerate(self._state.values()) if moments}
        groups = [
            {**self._settings(name), "name": name, "params": [number]} for number, name in enumerate(self._vectors)
        ]
        return {"state": state, "param_groups": groups}

    def load_moments(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Continue with copies of these moments, by the vectors' order; settings stay as they are."""
        for number, name in enumerate(self._vectors):
            moments = state.get(number, {})
            self._state[name] = {key: value.detach().clone() for key, value in moments.items() if value is not None}

    def _adam(self, name: str, vector: Tensor, gradient: Tensor) -> None:
        moments = self._state[name]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32, device=vector.device)
            moments["exp_avg"] = torch.zeros_like(vector)
            moments["exp_avg_sq"] = torch.zeros_like(vector)
        adam(
            [vector],
            [gradient],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [],
            [moments["step"]],
            fused=True,
            decoupled_weight_decay=self._kind == "adamw",
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self.rates[name],
            weight_decay=self._decay[name],
            eps=_EPS,
            maximize=False,
        )

    def _sgd(self, name: str, vector: Tensor, gradient: Tensor) -> None:
        buffers = [self._state[name].get("momentum_buffer")]
        sgd(
            [vector],
            [gradient],
            buffers,
            fused=True,
            weight_decay=self._decay[name],
            momentum=self._momentum,
            lr=self.rates[name],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if buffers[0] is not None and self._momentum:
            self._state[name]["momentum_buffer"] = buffers[0]

    def _settings(self, name: str) -> dict[str, Any]:
        common = {"lr": self.rates[name], "weight_decay": self._decay[name], "maximize": False, "foreach": None}
        common |= {"differentiable": False, "fused": True}
        if self._kind == "sgd":
            return {**common, "momentum": self._momentum, "dampening": 0.0, "nesterov": False}
        own = {"betas": _BETAS, "eps": _EPS, "amsgrad": False, "capturable": False}
        return {**common, **own, "decoupled_weight_decay": self._kind == "adamw"}


def checked_moments(
    state: Mapping[str, Any], spans: Sequence[slice], kind: str, whose: str
) -> dict[int, dict[str, Any]]:
    """The moments of an optimizer's state by vector, of the names and shapes that this kind of optimizer has.

    Args:
        state: as :meth:`OuterOptimizer.state_dict` gives it.
        spans: of the vectors.
        kind: of optimizer.
        whose: what the state should be of, and what to do, for people.

    Raises:
        StorageError: the state is another one.
    """
    names, optional = MOMENTS[kind], kind == "sgd"  # without momentum torch keeps None
    found = state.get("state")
    fits = isinstance(found, dict) and all(
        key in range(len(spans))
        and isinstance(moments, dict)
        and moments.keys() == names.keys()
        and all(_is_moment(moments[name], spans[key], names[name], optional) for name in names)
        for key, moments in found.items()
    )
    if not fits:
        raise StorageError(f"the checkpoint's optimizer state is not that of {whose}")
    assert isinstance(found, dict)
    return dict(found)


def _is_moment(value: Any, span: slice, each: bool, optional: bool) -> bool:
    shape = (span.stop - span.start,) if each else ()
    if value is None:
        return optional
    return isinstance(value, Tensor) and value.shape == shape and value.dtype == torch.float32
