"""The network of ``faults.py``: Omniglot's, and it raises once for each file ``raise`` in its folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch import Tensor, nn

from distmeta.models import Conv4


class Raising(nn.Module):
    """A conv4-64 that fails when it is told to."""

    def __init__(self, outputs: int, folder: str) -> None:
        super().__init__()
        self._order = Path(folder, "raise")
        self.network = Conv4(Conv4.Options(kind="conv4", filters=64), (1, 28, 28), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs."""
        if len(x) > 2 and self._order.exists():  # two examples are what a new worker checks it with
            with suppress(FileNotFoundError):  # another worker was faster
                self._order.unlink()
                raise LookupError("as the benchmark asked")
        outputs: Tensor = self.network(x)
        return outputs
