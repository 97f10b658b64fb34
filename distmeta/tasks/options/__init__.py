"""The settings of the task families, apart from the families themselves, so that checking them needs no torch.

A file each, or one for families that belong together.
"""

from __future__ import annotations

from distmeta.tasks.options.images import GlyphOptions, ImageOptions, OmniglotOptions
from distmeta.tasks.options.sinusoid import SinusoidOptions
from distmeta.tasks.options.texts import Clinc150Options, EncodingOptions, TextOptions
from distmeta.tasks.options.unlabelled import UnlabelledOptions

__all__ = [
    "Clinc150Options",
    "EncodingOptions",
    "GlyphOptions",
    "ImageOptions",
    "OmniglotOptions",
    "SinusoidOptions",
    "TextOptions",
    "UnlabelledOptions",
]
