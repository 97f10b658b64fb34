"""The settings of augmentation, apart from the augmentation itself, so that checking them needs no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from distmeta.config.sections import NonNegativeFloat, Section

Probability = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class AugmentationOptions(Section):
    """How training images are changed at random; everything is off unless it is set.

    ``flip`` is the probability of mirroring left and right. ``shift`` moves by up to that many pixels along each axis,
    ``rotation`` turns by up to that many degrees, ``scale`` stretches each axis by a factor within 1 +- ``scale``,
    ``shear`` slants each axis by up to that much; what lies outside of the image is black. ``crop`` shows a window of
    at least that share of the sides, anywhere in the image, enlarged. ``shift_probability``, ``rotation_probability``
    and ``crop_probability`` say for which share of the images.

    ``grey`` is the probability of losing all colour; images that keep it get up to ``brightness`` more or less light
    (1 is from black to white) and hues turned by up to the share ``hue`` of the colour circle. ``dropout`` is the
    probability with which each pixel is set to black.

    >>> AugmentationOptions(rotation=20).active, AugmentationOptions().active
    (True, False)
    """

    flip: Probability = 0
    shift: NonNegativeFloat = 0
    shift_probability: Probability = 1
    rotation: Degrees = 0
    rotation_probability: Probability = 1
    scale: BelowOne = 0
    shear: BelowOne = 0
    crop: Share = 1
    crop_probability: Probability = 1
    grey: Probability = 0
    brightness: Probability = 0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0
    dropout: BelowOne = 0

    @model_validator(mode="after")
    def _check_area(self) -> AugmentationOptions:
        if self.scale + self.shear >= 1:
            raise ValueError(
                f"scale + shear = {self.scale:g} + {self.shear:g}: expected less than 1 together, since an image would "
                "be pressed flat or turned over"
            )
        return self

    @property
    def moves(self) -> bool:
        """Whether pixels come to lie elsewhere, apart from ``flip``."""
        shifts = self.shift > 0 and self.shift_probability > 0
        turns = self.rotation > 0 and self.rotation_probability > 0
        crops = self.crop < 1 and self.crop_probability > 0
        return shifts or turns or crops or self.scale > 0 or self.shear > 0

    @property
    def recolours(self) -> bool:
        """Whether values of pixels change, apart from ``dropout``."""
        return self.grey > 0 or self.brightness > 0 or self.hue > 0

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return self.moves or self.recolours or self.flip > 0 or self.dropout > 0
