"""ResNet-12 of the few-shot literature."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from distmeta.models.base import Model, halved, image_shape
from distmeta.models.layers import norm2d
from distmeta.models.options import Norm, ResNet12Options

_SLOPE = 0.1


class ResNet12(Model):
    """Four residual blocks of three 3x3 convolutions, each followed by a 2x2 max pool; global average pool.

    TADAM (Oreshkin et al., NeurIPS 2018) with the widths of MetaOptNet (Lee et al., CVPR 2019), without
    DropBlock. A block is ``pool(lrelu(f(x) + norm(conv1x1(x))))`` with ``f = norm conv lrelu norm conv lrelu
    norm conv`` and slope 0.1. Takes images of 16 x 16 or more.

    (N, channels, height, width) to (N, outputs), or to (N, widths[-1]) without a head.
    """

    Options = ResNet12Options

    def __init__(self, options: ResNet12Options, input_shape: tuple[int, ...], outputs: int | None) -> None:
        super().__init__(options, input_shape, outputs)
        channels, *sizes = image_shape("resnet12", input_shape)
        for size in sizes:
            halved("resnet12", size, len(options.widths))
        before = (channels, *options.widths[:-1])
        self.body = nn.Sequential(
            *(
                _Block(inputs, width, options.norm, options.dropout)
                for inputs, width in zip(before, options.widths, strict=True)
            )
        )
        self.head = nn.Linear(options.widths[-1], outputs) if outputs is not None else None

    def features(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, features)."""
        maps: Tensor = self.body(inputs)
        return maps.mean((2, 3))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_normalised(before, after, 3, norm),
            nn.LeakyReLU(_SLOPE),
            *_normalised(after, after, 3, norm),
            nn.LeakyReLU(_SLOPE),
            *_normalised(after, after, 3, norm),
        )
        self.shortcut = nn.Sequential(*_normalised(before, after, 1, norm))
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        summed = F.leaky_relu(self.residual(maps) + self.shortcut(maps), _SLOPE)
        dropped: Tensor = self.dropout(F.max_pool2d(summed, 2))
        return dropped


def _normalised(before: int, after: int, kernel: int, norm: Norm) -> list[nn.Module]:
    # Batch norm subtracts a bias that comes before it; meta-learning one would be waste.
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=norm != "batch")
    nn.init.kaiming_normal_(convolution.weight, _SLOPE, mode="fan_out", nonlinearity="leaky_relu")
    return [convolution, norm2d(norm, after)]
