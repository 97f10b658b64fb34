"""A folder of images to try things with: 40 kinds of scribble, 20 drawings of each, and 3 new kinds.

    python examples/scribbles.py

writes ``pictures/KIND/NUMBER.png``, and of kinds that are in none of these ``new/support/KIND/NUMBER.png`` (two
drawings of each) and ``new/query/NUMBER.png`` (what is to be told apart). Your own folder of classes does as well.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64


def drawing(kind: int, number: int) -> Image.Image:
    """One drawing: the corners and the colour are the kind's, a shaking hand and the paper its own."""
    own = np.random.default_rng(kind)
    corners = own.uniform(12, SIZE - 12, (own.integers(3, 6), 2))
    colour = own.integers(0, 160, 3)
    hand = np.random.default_rng([kind, number])
    paper = hand.integers(215, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    image = Image.fromarray(paper)
    line = [tuple(corner) for corner in corners + hand.normal(0, 2.5, corners.shape) + hand.normal(0, 3, 2)]
    ImageDraw.Draw(image).line(line, fill=tuple(map(int, colour)), width=int(hand.integers(3, 6)), joint="curve")
    return image


def save(image: Image.Image, path: Path) -> None:
    """Write an image, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def main() -> None:
    """Draw all of them."""
    for kind in range(40):
        for number in range(20):
            save(drawing(kind, number), Path(f"pictures/kind-{kind:02d}/{number:02d}.png"))
    for kind, name in enumerate(("ant", "bee", "cat"), 100):
        for number in range(2):
            save(drawing(kind, number), Path(f"new/support/{name}/{number}.png"))
        for number in range(4):
            save(drawing(kind, 10 + number), Path(f"new/query/{name}-{number}.png"))
    print("pictures/: 40 kinds of 20 drawings; new/: 3 kinds to adapt to")


if __name__ == "__main__":
    main()
