"""Adaptation of a frozen network by adapters of low rank."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from distmeta.adaptations.gradient_descent import GradientDescent
from distmeta.adaptations.options import AdaptersOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.records import InputSpec
from distmeta.models.insertions import add_adapters


class Adapters(GradientDescent):
    r"""Gradient descent on matrices of low rank beside frozen weights: :math:`(W + \frac\alpha r B A) x`, B = 0 first.

    The layers that ``layers`` names get adapters, and what ``trained`` names stays as it is; everything else is frozen.
    What is frozen is no meta-parameter: it is neither sent to workers in each step nor has it a gradient or a moment of
    the outer optimizer, and it lies beside a run's checkpoints once.

    Source: Hu et al., ICLR 2022, arXiv 2106.09685, equation 3 (LoRA).
    """

    Options: ClassVar[type[AdaptationOptions]] = AdaptersOptions

    @classmethod
    def prepare(cls, options: Any, module: nn.Module, inputs: InputSpec) -> nn.Module:
        """The module, frozen and with adapters."""
        module = super().prepare(options, module, inputs)
        return add_adapters(module, options.layers, options.trained or [], options.rank, options.alpha)
