"""The settings of the task families, apart from the families themselves, so that checking them needs no torch.

A file each, or one for families that belong together.
"""

from __future__ import annotations

from distmeta.tasks.options.augmentation import AugmentationOptions
from distmeta.tasks.options.environments import (
    AntDirOptions,
    AntGoalOptions,
    BanditOptions,
    CartPoleOptions,
    EnvironmentOptions,
    GymnasiumOptions,
    HalfCheetahDirOptions,
    HalfCheetahVelOptions,
    MdpOptions,
    MetaWorldOptions,
    NavigationOptions,
    PendulumOptions,
    WalkerParamsOptions,
)
from distmeta.tasks.options.images import (
    CifarFSOptions,
    CubOptions,
    GlyphOptions,
    ImageOptions,
    MiniImageNetOptions,
    OmniglotOptions,
    OwnImageOptions,
    PublishedImageOptions,
    StoredImageOptions,
    TieredImageNetOptions,
)
from distmeta.tasks.options.sinusoid import SinusoidOptions
from distmeta.tasks.options.table import TableOptions
from distmeta.tasks.options.texts import Clinc150Options, EncodingOptions, TextOptions
from distmeta.tasks.options.unlabelled import UnlabelledOptions

__all__ = [
    "AntDirOptions",
    "AntGoalOptions",
    "AugmentationOptions",
    "BanditOptions",
    "CartPoleOptions",
    "CifarFSOptions",
    "Clinc150Options",
    "CubOptions",
    "EncodingOptions",
    "EnvironmentOptions",
    "GlyphOptions",
    "GymnasiumOptions",
    "HalfCheetahDirOptions",
    "HalfCheetahVelOptions",
    "ImageOptions",
    "MdpOptions",
    "MetaWorldOptions",
    "MiniImageNetOptions",
    "NavigationOptions",
    "OmniglotOptions",
    "OwnImageOptions",
    "PendulumOptions",
    "PublishedImageOptions",
    "SinusoidOptions",
    "StoredImageOptions",
    "TableOptions",
    "TextOptions",
    "TieredImageNetOptions",
    "UnlabelledOptions",
    "WalkerParamsOptions",
]
