"""One image: decoded, brought to a mode and a size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXEL_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's names of the formats that are decoded."""

MOST_PIXELS = 2**26
"""Of an image before it is resized; more than this is refused before anything is decoded."""


def pixels(content: bytes | NDArray[np.uint8], size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    """An image as it stands in a store.

    Args:
        content: of a file; or pixels (H, W) or (H, W, 3).
        size: (height, width) to which the whole image is resized by Pillow's Lanczos filter, which averages where it
            makes smaller; ``None`` leaves it as it is.
        channels: 3 for colour (RGB), 1 for grey (ITU-R 601-2 luma). Transparency is left out.

    Returns:
        (H, W) for grey, (H, W, 3) for colour.

    Raises:
        OSError, ValueError: it cannot be decoded, or is too large.

    >>> pixels(np.zeros((4, 6, 3), np.uint8), (2, 2), 1).shape
    (2, 2)
    """
    from PIL import Image, ImageOps

    image: Any = Image.fromarray(content) if isinstance(content, np.ndarray) else _opened(content)
    with image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"it has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}")
        upright = ImageOps.exif_transpose(image)
        plain = _eight_bits(upright, image.format).convert("RGB" if channels == 3 else "L")
        if size is not None and (plain.height, plain.width) != size:
            plain = plain.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        return np.asarray(plain)


def _opened(content: bytes) -> Any:
    """An image of which the header alone has been read: a few bytes may claim to be gigabytes of pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(content), formats=PIXEL_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is no image of the types {', '.join(PIXEL_FORMATS)}, or its header is damaged") from None
    except Image.DecompressionBombError:
        raise ValueError(f"it claims far more than {MOST_PIXELS:,} pixels") from None


def _eight_bits(image: Any, form: str | None) -> Any:
    """An image of more bits, of this file format, as one of 8 in a mode from which Pillow goes to colour and grey.

    Pillow itself would cut what is above 255. From PPM files with a largest value above 255, it brings that to 65535.
    """
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and form not in ("PNG", "PPM")):
        raise ValueError("its pixels are of 32 bits, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB") if image.mode == "LAB" else image  # which has no way to grey
