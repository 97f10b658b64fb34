"""Networks that ``torch.func`` cannot run, and next to each a twin that computes the same by ordinary means."""

from __future__ import annotations

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class OldTanh(Function):
    """Tanh in the style of nearly all published custom functions."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y**2)


class OnceTanh(OldTanh):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y**2)


class Net(nn.Module):
    """A perceptron whose first activation differs from class to class."""

    def __init__(self, outputs: int = 1, inputs: int = 1) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, 6)
        self.second = nn.Linear(6, 6)
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(self.activation(self.first(x.flatten(1))))))

    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


class OldFunction(Net):
    def activation(self, h: Tensor) -> Tensor:
        return OldTanh.apply(h)


class OnceDifferentiable(Net):
    def activation(self, h: Tensor) -> Tensor:
        return OnceTanh.apply(h)


class SavedTensorHooks(Net):
    def activation(self, h: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return torch.tanh(h)


class DetachedInput(Net):
    """Adds a second activation whose derivative by the weights is cut: allowed, and the same everywhere."""

    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h) + OldTanh.apply(h.detach())


class DetachedTwin(Net):
    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h) + torch.tanh(h.detach())


class Dropping(Net):
    """Dropout between two parts of an activation that may be computed twice."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__(outputs)
        self.drop = nn.Dropout(0.3)

    def activation(self, h: Tensor) -> Tensor:
        return self.drop(torch.tanh(self.second(h)))


class Checkpointed(Dropping):
    def __init__(self, reentrant: bool, outputs: int = 1) -> None:
        super().__init__(outputs)
        self.reentrant = reentrant

    def activation(self, h: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(super().activation, h, use_reentrant=self.reentrant)


class Energy(nn.Module):
    """The slope of a perceptron with one hidden layer, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 8)
        self.outer = nn.Linear(8, 1)

    def energy(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))

    def forward(self, x: Tensor) -> Tensor:
        slope = 1 - torch.tanh(self.inner(x)) ** 2
        return (slope * self.outer.weight) @ self.inner.weight


class Force(Energy):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class ForceInGradMode(Energy):
    """Relies on grad mode, as in evaluation without ``torch.no_grad``, and asks its own inputs for gradients."""

    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad_(True)
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class ForceByBackward(Energy):
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        self.energy(x).sum().backward(create_graph=True)
        assert x.grad is not None
        return x.grad


class OtherUnderTransforms(Net):
    """Runs everywhere, and computes something else where ``torch.func`` looks on."""

    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h) * (2 if torch._C._are_functorch_transforms_active() else 1)


class UnmappableInEvaluation(Net):
    """Its training can be mapped; its evaluation depends on a value."""

    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h if torch.is_grad_enabled() or float(h.sum()) < 1e9 else -h)


class HardFloat32(Net):
    """Insists on float32."""

    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h @ torch.eye(6))


class Embedded(nn.Module):
    """An embedding of images, for prototypes."""

    def __init__(self, old: bool) -> None:
        super().__init__()
        self.net = (OldFunction if old else Net)(5, 784)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Reversed(Function):
    """Gradient reversal: its backward pass is not the derivative of its forward pass, on purpose."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -0.5 * g


class DetachedBackward(OldTanh):
    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return torch.from_numpy((g * (1 - y**2)).detach().numpy())


class Reversal(Net):
    def activation(self, h: Tensor) -> Tensor:
        return Reversed.apply(torch.tanh(h))


class NumpyBackward(Net):
    def activation(self, h: Tensor) -> Tensor:
        return DetachedBackward.apply(h)
