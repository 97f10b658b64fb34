"""Networks that cannot be trained as they are: each is refused with one message that says what and why."""

from __future__ import annotations

import functools
import itertools
import os
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from battery_networks import flat, tokens_of
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Between(nn.Module):
    """A function of the features between two layers."""

    def __init__(self, outputs: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inputs, self.head, self.function = nn.Linear(784, 8), nn.Linear(8, outputs), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(torch.tanh(self.inputs(x.flatten(1)))))  # type: ignore[no-any-return]


# Weights written in place -------------------------------------------------------------------------------------------


class Embedded(nn.Module):
    def __init__(self, outputs: int, **settings: Any) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(16, 8, **settings), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens_of(x)).mean(1)))  # type: ignore[no-any-return]


def max_norm(outputs: int) -> nn.Module:
    return Embedded(outputs, max_norm=1.0)


def max_norm_not_reached(outputs: int) -> nn.Module:
    return Embedded(outputs, max_norm=100.0)


class FunctionalMaxNorm(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(16, 8)), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.embedding(tokens_of(x), self.table, max_norm=1.0).mean(1))  # type: ignore[no-any-return]


class Constrained(nn.Module):
    """Writes the weight of its first layer by one of the ways that people use."""

    def __init__(self, outputs: int, write: Callable[[nn.Linear], Any]) -> None:
        super().__init__()
        self.layer, self.head, self.write = nn.Linear(784, 8), nn.Linear(8, outputs), write

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.write(self.layer)
        return self.head(torch.tanh(self.layer(x.flatten(1))))  # type: ignore[no-any-return]


def copied(outputs: int) -> nn.Module:
    return Constrained(outputs, lambda layer: layer.weight.copy_(layer.weight / layer.weight.norm(dim=1, keepdim=True)))


def data(outputs: int) -> nn.Module:
    return Constrained(outputs, lambda layer: layer.weight.data.clamp_(-0.01, 0.01))


def data_assigned(outputs: int) -> nn.Module:
    def write(layer: nn.Linear) -> None:
        layer.weight.data = layer.weight.data * 0.9

    return Constrained(outputs, write)


def renormed(outputs: int) -> nn.Module:
    return Constrained(outputs, lambda layer: layer.weight[:2].renorm_(2, 0, 100.0))


def only_if_large(outputs: int) -> nn.Module:
    """The constraint does not hold at the first weights."""

    def write(layer: nn.Linear) -> None:
        if layer.weight.norm() > 10:
            layer.weight.mul_(10 / layer.weight.norm())

    return Constrained(outputs, write)


class MovingTarget(nn.Module):
    """A frozen copy that follows the trained layer, as in self-distillation."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer, self.target, self.head = nn.Linear(784, 8), nn.Linear(784, 8), nn.Linear(8, outputs)
        self.target.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for mine, its in zip(self.target.parameters(), self.layer.parameters(), strict=True):
                mine.lerp_(its, 0.1)
        return self.head(torch.tanh(self.layer(x.flatten(1)) - self.target(x.flatten(1))))  # type: ignore[no-any-return]


# Hidden randomness --------------------------------------------------------------------------------------------------


def python_random(outputs: int) -> nn.Module:
    return Between(outputs, lambda x: x if random.random() < 0.3 else 2 * x)


def python_shuffle(outputs: int) -> nn.Module:
    """Draws, but this time nothing depends on it."""
    return Between(outputs, lambda x: x[:, : max(8, random.randrange(9))])


def numpy_random(outputs: int) -> nn.Module:
    return Between(outputs, lambda x: x * float(np.random.rand()))


def numpy_generator(outputs: int) -> nn.Module:
    generator = np.random.default_rng(0)
    return Between(outputs, lambda x: x * float(generator.random()))


def python_generator(outputs: int) -> nn.Module:
    generator = random.Random(0)
    return Between(outputs, lambda x: x * generator.random())


def torch_random(outputs: int) -> nn.Module:
    return Between(outputs, lambda x: x + torch.rand_like(x))


def torch_generator(outputs: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return Between(outputs, lambda x: x + torch.rand(x.shape, generator=generator).to(x))


def clock(outputs: int) -> nn.Module:
    return Between(outputs, lambda x: x * (time.perf_counter() % 1))


class RecurrentDropout(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 8, 2, batch_first=True, dropout=0.3), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0][:, -1])  # type: ignore[no-any-return]


# Hidden state -------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Its outputs depend on how often it was called."""

    def __init__(self, outputs: int, factor: Callable[[int], float]) -> None:
        super().__init__()
        self.inputs, self.head, self.factor, self.calls = nn.Linear(784, 8), nn.Linear(8, outputs), factor, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(torch.tanh(self.inputs(x.flatten(1))) * self.factor(self.calls))  # type: ignore[no-any-return]


def counter(outputs: int) -> nn.Module:
    return Counting(outputs, lambda calls: 1 / calls)


def every_tenth_call(outputs: int) -> nn.Module:
    return Counting(outputs, lambda calls: 0.0 if calls % 10 == 0 else 1.0)


def after_many_calls(outputs: int) -> nn.Module:
    return Counting(outputs, lambda calls: min(1.0, calls / 1e4) if calls > 500 else 0.0)


class Remembers(nn.Module):
    """Adds what it saw before."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inputs, self.head = nn.Linear(784, 8), nn.Linear(8, outputs)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inputs(x.flatten(1)))
        self.seen.append(x.detach().mean(0))
        return self.head(x - torch.stack(self.seen).mean(0) * len(self.seen))  # type: ignore[no-any-return]


class RunningMean(nn.Module):
    """A running mean as a plain attribute, which the next call uses."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inputs, self.head = nn.Linear(784, 8), nn.Linear(8, outputs)
        self.mean = torch.zeros(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inputs(x.flatten(1)))
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.head(x - self.mean)  # type: ignore[no-any-return]


class _Keeps(nn.Module):
    """Its features are scaled by what a function gives, which may keep something from call to call."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inputs, self.head = nn.Linear(784, 8), nn.Linear(8, outputs)
        self.kept = self.start()

    def start(self) -> Any:
        return None

    def scale(self) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inputs(x.flatten(1))) * self.scale())  # type: ignore[no-any-return]


def _late(calls: Any) -> float:
    return 1.0 if calls < 1000 else 0.1


class TensorCounter(_Keeps):
    def start(self) -> Tensor:
        return torch.zeros(())

    def scale(self) -> Tensor:
        self.kept += 1
        return torch.where(self.kept < 1000, 1.0, 0.1)


class ArrayCounter(_Keeps):
    def start(self) -> Any:
        return np.zeros(2, dtype=np.int32)

    def scale(self) -> float:
        self.kept = self.kept + 1
        return _late(self.kept[1])


class TupleCounter(_Keeps):
    def start(self) -> Any:
        return (0, "calls")

    def scale(self) -> float:
        self.kept = (self.kept[0] + 1, "calls")
        return _late(self.kept[0])


class TextCounter(_Keeps):
    def start(self) -> str:
        return ""

    def scale(self) -> float:
        self.kept += "."
        return _late(len(self.kept))


class SetCounter(_Keeps):
    def start(self) -> set[int]:
        return set()

    def scale(self) -> float:
        self.kept.add(len(self.kept))
        return _late(len(self.kept))


class _Slots:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class SlotCounter(_Keeps):
    def start(self) -> _Slots:
        return _Slots()

    def scale(self) -> float:
        self.kept.calls += 1
        return _late(self.kept.calls)


class Iterates(_Keeps):
    def start(self) -> Any:
        return itertools.count()

    def scale(self) -> float:
        return _late(next(self.kept))


def _ticks() -> Callable[[], int]:
    calls = 0

    def tick() -> int:
        nonlocal calls
        calls += 1
        return calls

    return tick


class ClosureInList(_Keeps):
    def start(self) -> Any:
        return [_ticks()]

    def scale(self) -> float:
        return _late(self.kept[0]())


_CALLS = {"calls": 0}


def _count() -> int:
    _CALLS["calls"] += 1
    _count.calls = getattr(_count, "calls", 0) + 1  # type: ignore[attr-defined]
    return _CALLS["calls"]


class CalledFunctionCounts(_Keeps):
    """Not forward itself, but a function that it calls, reads and writes the global."""

    def scale(self) -> float:
        return _late(_count())


class UnregisteredCounter(_Keeps):
    """A layer that is no submodule counts."""

    def start(self) -> Any:
        layer = nn.Identity()
        layer.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        return [layer]

    def scale(self) -> float:
        self.kept[0].calls += 1
        return _late(int(self.kept[0].calls))


class SwitchesMode(_Keeps):
    """Trains in every second call."""

    def scale(self) -> float:
        self.train(not self.training)
        return 2.0 if self.training else 1.0


# Parameters that are read by another way, or are more than values ----------------------------------------------------


def local_class(outputs: int) -> nn.Module:
    """The layers are variables of the factory, and the class reads those."""
    body, head = nn.Linear(784, 8), nn.Linear(8, outputs)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head

        def forward(self, x: Tensor) -> Tensor:
            return head(torch.tanh(body(x.flatten(1))))  # type: ignore[no-any-return]

    return Net()


class _Scaled(_Keeps):
    def start(self) -> Any:
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        return None


_REGISTRY: dict[str, Any] = {}


class GlobalRegistry(_Scaled):
    """Finds itself in a global."""

    def start(self) -> Any:
        _REGISTRY["net"] = self
        return super().start()

    def scale(self) -> Any:
        return _REGISTRY["net"].gain


_ALL: list[Any] = []


class FirstOfAll(_Scaled):
    """Finds itself in a global only because it is the first that was built."""

    def start(self) -> Any:
        _ALL.append(self)
        return super().start()

    def scale(self) -> Any:
        return _ALL[0].gain


class ClassFunction(_Scaled):
    """A function in its class leads to the last module that was made."""

    read: Callable[[], Tensor]

    def start(self) -> Any:
        type(self).read = staticmethod(lambda: self.gain)
        return super().start()

    def scale(self) -> Any:
        return type(self).read()


class CachedMethod(_Scaled):
    def start(self) -> Any:
        super().start()
        return functools.lru_cache(self._own)

    def _own(self) -> nn.Module:
        return self

    def scale(self) -> Any:
        return self.kept().gain


class HookedParameter(_Scaled):
    def start(self) -> Any:
        super().start()
        self.gain.register_hook(lambda gradient: gradient * 0.5)

    def scale(self) -> Any:
        return self.gain


class ParameterWithAttribute(_Scaled):
    def start(self) -> Any:
        super().start()
        self.gain.factor = 2.0  # type: ignore[attr-defined]

    def scale(self) -> Any:
        return self.gain * getattr(self.gain, "factor", 1.0)


class HidesParameters(_Scaled):
    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return (pair for pair in super().named_parameters(*args, **kwargs) if pair[0] != "gain")

    def scale(self) -> Any:
        return self.gain


class SavesLess(_Scaled):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name != "gain"}

    def scale(self) -> Any:
        return self.gain


class FreezesInForward(_Scaled):
    def scale(self) -> Any:
        return self.gain.requires_grad_(False)


class StaleResult(_Scaled):
    def start(self) -> Any:
        super().start()
        return [self.gain * 2]

    def scale(self) -> Any:
        return self.kept[0]


class DetachedOutputs(_Scaled):
    def scale(self) -> Any:
        return self.gain

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


# What cannot be copied, built again or taken apart --------------------------------------------------------------------


class OpenFile(_Keeps):
    def start(self) -> Any:
        return [open(os.devnull, "w")]


class PythonGenerator(_Keeps):
    def start(self) -> Any:
        return (number for number in range(10))


class _Itself(nn.Linear):
    def __deepcopy__(self, memo: Any) -> nn.Module:
        return self


def copies_itself(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), _Itself(784, outputs))


def unseeded(outputs: int) -> nn.Module:
    module = flat(outputs)
    module.register_buffer("constant", torch.from_numpy(np.random.default_rng().random(3)))
    return module


_BACKBONE: list[nn.Module] = []


def same_backbone(outputs: int) -> nn.Module:
    """Loaded once, and put into every module."""
    if not _BACKBONE:
        _BACKBONE.append(nn.Linear(784, 8).requires_grad_(False))
    return nn.Sequential(nn.Flatten(), _BACKBONE[0], nn.Tanh(), nn.Linear(8, outputs))


def data_parallel(outputs: int) -> nn.Module:
    return nn.DataParallel(flat(outputs))


def scripted(outputs: int) -> nn.Module:
    return torch.jit.script(flat(outputs))  # type: ignore[no-any-return]


# Types and operators ------------------------------------------------------------------------------------------------


def sparse(outputs: int) -> nn.Module:
    return Embedded(outputs, sparse=True)


class Bag(nn.Module):
    def __init__(self, outputs: int, **settings: Any) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(16, 8, **settings), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(tokens_of(x))))  # type: ignore[no-any-return]


def bag(outputs: int) -> nn.Module:
    return Bag(outputs)


def sparse_bag(outputs: int) -> nn.Module:
    return Bag(outputs, sparse=True)


def through_numpy_without_detach(outputs: int) -> nn.Module:
    return Between(outputs, lambda x: torch.from_numpy(np.tanh(x.numpy())))


class Complex(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(784, 8, dtype=torch.complex64)), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.flatten(1).to(torch.complex64) @ self.weight).abs())  # type: ignore[no-any-return]


def bfloat16(outputs: int) -> nn.Module:
    return flat(outputs).bfloat16()


def float64(outputs: int) -> nn.Module:
    return flat(outputs).double()


def mixed_types(outputs: int) -> nn.Module:
    module = flat(outputs)
    module[-1].half()  # type: ignore[index, operator]
    return module


class HardCoded(nn.Module):
    """Its inputs become float64 whatever its weights are."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1).to(torch.float64))  # type: ignore[no-any-return]


class Pair(nn.Module):
    """Returns two tensors."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = flat(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), x


class _Once(torch.autograd.Function):
    """Has a first derivative alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def once(outputs: int) -> nn.Module:
    return Between(outputs, lambda x: _Once.apply(x))  # type: ignore[no-any-return, no-untyped-call]
