"""The four-block convolutional network of the few-shot literature."""

from __future__ import annotations

from torch import Tensor, nn

from distmeta.models.base import Model, halved, image_shape
from distmeta.models.layers import norm2d
from distmeta.models.options import Conv4Options, Norm

_BLOCKS = 4


class Conv4(Model):
    """Four times 3x3 convolution, normalisation, ReLU, half the size; then a linear head.

    MAML (Finn et al., ICML 2017) on Omniglot: 64 filters, stride 2, spatial mean (the defaults). On
    mini-ImageNet: 32 filters, stride 1 with 2x2 max pool, flatten: ``filters: 32, downsample: pool``.
    ProtoNet's embedding is ``filters: 64, downsample: pool``. Weights start as PyTorch's layers do.

    (N, channels, height, width) to (N, outputs), or to (N, features) without a head.
    """

    Options = Conv4Options

    def __init__(self, options: Conv4Options, input_shape: tuple[int, ...], outputs: int | None) -> None:
        super().__init__(options, input_shape, outputs)
        channels, *sizes = image_shape("conv4", input_shape)
        pool = options.downsample == "pool"
        blocks = [
            _block(channels if index == 0 else options.filters, options.filters, options.norm, pool)
            for index in range(_BLOCKS)
        ]
        self.body = nn.Sequential(*blocks)
        self.flatten = options.readout == "flatten"
        features = options.filters
        for size in sizes:
            left = halved("conv4", size, _BLOCKS) if pool else -(-size // 2**_BLOCKS)
            features *= left if self.flatten else 1
        self.head = nn.Linear(features, outputs) if outputs is not None else None

    def features(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, features)."""
        maps: Tensor = self.body(inputs)
        return maps.flatten(1) if self.flatten else maps.mean((2, 3))


def _block(before: int, after: int, norm: Norm, pool: bool) -> nn.Module:
    # Batch norm subtracts a bias that comes before it; meta-learning one would be waste.
    convolution = nn.Conv2d(before, after, 3, stride=1 if pool else 2, padding=1, bias=norm != "batch")
    layers = [convolution, norm2d(norm, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if pool else nn.Sequential(*layers)
