"""How much of the processor's float32 matrix-product rate the meta-gradient reaches.

    python benchmarks/roofline.py [--rounds 5] [--seconds 2] [--json FILE] [key=value ...]

The case is Omniglot 5-way 1-shot (conv4-64, 1 query a class, one exact inner step) on the built-in glyph tasks.

Useful FLOP of one task are those that ``torch.utils.flop_counter.FlopCounterMode`` counts, two for a multiplication
with its addition, while plain ``torch.autograd`` computes the task's exact meta-gradient: the forward and backward pass
over the support set, that over the query set, and the backward pass through the support set's backward pass. Only
products count: those of convolutions and of the head, not normalisation, activations, losses, updates. For the count
a convolution is written as one matrix product a tap of its filter, over the places where the tap lies inside the image,
so multiplications with the zeros of the padding are not useful, nor are results that a library computes and cuts off.
Gradients by the images are never computed. It comes to 0.26 GFLOP; counted over torch's own convolutions, with padding
and results cut off, it is 0.33 GFLOP (in the JSON as ``flop_of_convolutions``).

The product rate is that of square float32 matrices, measured in the same processes in turn with the engine: in one
process with one thread, and in a process a core with one thread each, all at once. The share is useful FLOP/s over
that rate; figures are medians over rounds, shares medians of the rounds' shares. Everything is on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import machine, product_rate, show, write
from peers_child import CASES, Ours, configure, plain_gradient, plain_module
from processes import Child, Group, cores, rate, running, together
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from distmeta.config.schema import Config
from distmeta.errors import DistmetaError
from distmeta.tasks import open_family, prepare_family

CASE = "omniglot-5w1s"


class Taps(nn.Module):
    """A convolution as one matrix product a tap of its filter, without the products with padding."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        if convolution.bias is not None or convolution.groups != 1 or max(convolution.dilation) != 1:
            raise ValueError("only plain convolutions without a bias are counted")
        self.weight = convolution.weight
        self.stride = int(convolution.stride[0])
        self.padding = int(convolution.padding[0])

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        outputs: list[Tensor] = []
        for i in range(self.weight.shape[2]):
            for j in range(self.weight.shape[3]):
                rows, *above_below = self._inside(i, inputs.shape[2])
                columns, *left_right = self._inside(j, inputs.shape[3])
                part = inputs[:, :, rows, columns].permute(0, 2, 3, 1)
                product = part.reshape(-1, part.shape[3]) @ self.weight[:, :, i, j].T
                placed = product.reshape(*part.shape[:3], -1).permute(0, 3, 1, 2)
                outputs.append(F.pad(placed, (*left_right, *above_below)))
        return torch.stack(outputs).sum(0)

    def _inside(self, tap: int, size: int) -> tuple[slice, int, int]:
        """Inputs that a tap meets, and outputs before and after those that it gives to."""
        count = (size + 2 * self.padding - self.weight.shape[2]) // self.stride + 1
        first = tap - self.padding
        inside = [place for place in range(count) if 0 <= place * self.stride + first < size]
        chosen = slice(inside[0] * self.stride + first, inside[-1] * self.stride + first + 1, self.stride)
        return chosen, inside[0], count - 1 - inside[-1]


def by_taps(module: nn.Module) -> nn.Module:
    """The module with its convolutions written as :class:`Taps`, in place."""
    for name, child in module.named_children():
        setattr(module, name, Taps(child) if isinstance(child, nn.Conv2d) else by_taps(child))
    return module


def count(config: Config) -> tuple[int, int]:
    """FLOP of one task's meta-gradient: the useful ones, and those of torch's convolutions."""
    batch = open_family(config, torch.device("cpu")).sample("train", range(1))
    flops, gradients = [], []
    for module in (by_taps(plain_module(config)), plain_module(config)):
        with FlopCounterMode(display=False) as counter:
            gradients.append(plain_gradient(module, config, batch))
        flops.append(counter.get_total_flops())
    for name, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], value, rtol=1e-3, atol=1e-4)
    return flops[0], flops[1]


class Engine(Ours):
    """distmeta's engine, in a process that measures its product rate too."""

    def products(self, seconds: float) -> float:
        """FLOP/s of float32 matrix products, with one thread."""
        return product_rate(1, seconds)


def measure(children: Sequence[Child], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Tasks/s and product rates of one process and of all at once, a list of rounds each."""
    ways = {"1 process": children[:1]}
    if len(children) > 1:
        ways[f"{len(children)} processes"] = children
    taken: dict[str, dict[str, list[float]]] = {way: {"tasks": [], "products": []} for way in ways}
    for _ in range(rounds):
        for way, chosen in ways.items():
            taken[way]["products"].append(sum(together(chosen, "products", seconds / 2)))
            taken[way]["tasks"].append(rate(chosen, seconds))
    return taken


def main() -> None:
    """Count, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of tasks; half as long for products")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of distmeta's configuration")
    options = parser.parse_intermixed_args()
    overrides = (*options.overrides, "run.device=cpu")
    try:
        config = configure(CASES[CASE], overrides)
        prepare_family(config)
        useful, all_of_them = count(config)
        group = Group(cores(), 1, Engine, (CASES[CASE], overrides, 1))
        with running({CASE: group}) as started:
            taken = measure(started[CASE], options.rounds, options.seconds)
    except DistmetaError as error:
        sys.exit(str(error))
    rows, figures = [], {}
    for way, values in taken.items():
        shares = [useful * tasks / products for tasks, products in zip(*values.values(), strict=True)]
        tasks, products = median(values["tasks"]), median(values["products"])
        row: dict[str, Any] = {"one thread each": way, "tasks/s": f"{tasks:.1f}"}
        row["useful GFLOP/s"] = f"{useful * tasks / 1e9:.1f}"
        row["products GFLOP/s"] = f"{products / 1e9:.1f}"
        row["share"] = f"{100 * median(shares):.1f} %"
        rows.append(row)
        figures[way] = {"tasks_per_second": tasks, "product_rate": products, "share": median(shares), "rounds": values}
    show(f"{useful / 1e9:.3f} useful GFLOP a task ({CASE}) on {machine()['cpu']}", rows)
    totals = {"useful_flop": useful, "flop_of_convolutions": all_of_them}
    write(options.json, "roofline", {"overrides": options.overrides, **totals, "ways": figures})


if __name__ == "__main__":
    main()
