"""Meta-train a network of your own: any nn.Module, made by a function that takes the number of outputs.

python examples/own_network.py [RUN_DIR] [KEY=VALUE]...
"""

from __future__ import annotations

import sys

from torch import Tensor, nn

import distmeta


class SmallConvNet(nn.Module):
    """A convolution, another one beside a residual connection, and a linear head."""

    def __init__(self, outputs: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * 7 * 7, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs) of images (N, 1, 28, 28)."""
        x = self.first(x)
        logits: Tensor = self.head(x + self.second(x))
        return logits


def network(outputs: int, channels: int = 32) -> nn.Module:
    """The factory that the configuration names; settings beside ``kind`` are its keyword arguments."""
    return SmallConvNet(outputs, channels)


CONFIG = {
    "tasks": {"kind": "glyphs", "ways": 5, "shots": 1, "queries": 5},
    "model": {"kind": "module:own_network.network", "channels": 32},
    "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 1},
    "outer": {"lr": 3e-3},
    "run": {"steps": 400, "meta_batch": 16, "validate_every": 100},
    "evaluation": {"tasks": 600, "queries": 15, "inner_steps": 3},
}


def main(run_dir: str = "runs/own_network", *overrides: str) -> None:
    """Train, then show the accuracy on new classes."""
    for record in distmeta.train(distmeta.load_config(CONFIG, overrides), run_dir):
        if record.validation is not None:
            print(f"step {record.step}: validation accuracy {record.validation['accuracy']:.1%}")
    # A run's folder may come from anyone: its network is imported because it is named here again.
    measured = distmeta.evaluate(run_dir, ["model.kind=module:own_network.network"])["accuracy"]
    print(f"meta-test accuracy {measured['mean']:.1%} ± {measured['ci95']:.1%}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except distmeta.DistmetaError as error:  # says what is wrong, and what to do
        sys.exit(f"error: {error}")
