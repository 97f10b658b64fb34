"""Networks of users' own, with the faults that users' networks have."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """A small network that does something of its own before each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        return outputs


class Unused(Plain):
    """It has a layer that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(3, 3)


class Force(Plain):
    """The slope of an energy: a derivative by the inputs, which no transform of torch.func lets pass."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(torch.tanh(self.layers[0](x)).sum() * 2, x, create_graph=True)[0] + self.layers(
                x
            )


class Switched(Plain):
    """From the moment that the file ``switch`` exists it breaks in every process but ``driver``."""

    def __init__(self, switch: str, driver: int = 0) -> None:
        super().__init__()
        self._switch = Path(switch)
        self._driver = driver

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self._driver and self._switch.exists():
            self.fail()
        return super().forward(x)

    def fail(self) -> None:
        raise NotImplementedError


class Raises(Switched):
    def fail(self) -> None:
        raise LookupError("the user's own complaint")


class RaisesLater(Raises):
    """Takes the few examples that a network is looked at with, so that new workers open."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) > 4 else Plain.forward(self, x)


class Dies(Switched):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RaisesOnTasks(Plain):
    """Takes the few examples that a network is looked at with, and fails on the first real examples."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise LookupError("the user's own complaint")
        return super().forward(x)


class Fragile(Plain):
    """Gives NaN for a few tasks: those with an input near the upper end."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.amax() > 4.98, torch.nan, super().forward(x))


class Chaotic(nn.Module):
    """A small convolutional network that tells which processes compute with it, and raises once for each order.

    ``folder`` gets a file ``worker-PID`` from each process that has computed tasks; a file ``raise-N`` in it makes one
    call fail, and goes away; while there is a file ``slow``, every call takes a moment.
    """

    def __init__(self, outputs: int, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:  # more than it is looked at with when it opens
            (self._folder / f"worker-{os.getpid()}").touch()
            for order in self._folder.glob("raise-*"):
                with suppress(FileNotFoundError):  # another process was faster
                    order.unlink()
                    raise LookupError(f"as {order.name} says")
            if (self._folder / "slow").exists():
                time.sleep(0.1)
        outputs: Tensor = self.layers(x)
        return outputs
