"""Tasks as people see them: images as a picture or as half blocks of a terminal, anything else as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from distmeta.core.records import Data
from distmeta.errors import ConfigError
from distmeta.storage.cache import written_whole

TaskViewer = Callable[[Any, str, Sequence[int]], Iterable[RenderableType]]
"""Shows some tasks of an opened family: called with the family, the split and the ids."""

VIEWERS: dict[str, str] = {
    "clinc150": "distmeta.cli.text_views:text_tables",
    "table": "distmeta.cli.table_view:table_tasks",
    "text": "distmeta.cli.text_views:text_tables",
}
"""``module:function`` of a :data:`TaskViewer` by kind of tasks, where these are better shown in a way of their own."""

_MOST_QUERIES = 8
"""Query images of a class that are shown."""

_CELL = 64
_GAP = 12
_ROWS = 12
"""Examples of a task that are shown as a table."""

_SHADES = " .:-=+*#%@"


def views(kind: str, family: Any, split: str, ids: Sequence[int], console: Console) -> Iterator[RenderableType]:
    """Some tasks for a terminal.

    Args:
        kind: of the tasks.
        family: opened.
        split: ``train``, ``validation`` or ``test``.
        ids: the tasks.
        console: on which they will be shown; without colours, images are drawn with letters.
    """
    if kind in VIEWERS:
        module, _, function = VIEWERS[kind].partition(":")
        viewer: TaskViewer = getattr(import_module(module), function)
        yield from viewer(family, split, ids)
        return
    for task in ids:
        support, query = _sampled(family, split, task)
        title = f"{split} task {task}"
        if is_images(support):
            yield Text(f"{title}: support | query, a class a line")
            yield from _drawn(support, query, console)
        else:
            yield _listed(title, support, query)


def is_images(data: Data) -> bool:
    """Whether a task's inputs are images with classes: ``x`` (N, 1 or 3, H, W)."""
    return "x" in data and data["x"].ndim == 4 and data["x"].shape[1] in (1, 3) and not data["y"].is_floating_point()


def picture(family: Any, split: str, ids: Sequence[int], path: Path) -> None:
    """Write a PNG of some image tasks: a class a line, its support images, then its query images.

    Raises:
        ConfigError: the tasks have no images, or the name is no PNG's.
        DataError: the file cannot be written.
    """
    from PIL import Image, ImageDraw

    if path.suffix.lower() != ".png":
        raise ConfigError(f"--out = {path}: expected a file whose name ends in .png")
    sheets = []
    for task in ids:
        support, query = _sampled(family, split, task)
        if not is_images(support):
            raise ConfigError("--out: a picture is drawn of tasks with images; leave it out to see these as a table")
        lines = _lines(support, query)
        cell = max(_CELL, lines[0][1][0].shape[0])
        width = 4 * _GAP + max(_GAP + (len(shots) + len(queries)) * (cell + 2) for _, shots, queries in lines)
        sheet = Image.new("RGB", (width, 2 * _GAP + len(lines) * (cell + 2)), "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((2, 2), f"{split} task {task}: label, support | query", fill="black")
        for row, (label, shots, queries) in enumerate(lines):
            y = 2 * _GAP + row * (cell + 2)
            draw.text((_GAP, y + cell // 2), str(label), fill="black")
            for column, image in enumerate([*shots, *queries]):
                x = 3 * _GAP + column * (cell + 2) + (_GAP if column >= len(shots) else 0)
                small = Image.fromarray(image)
                small.thumbnail((cell, cell))
                sheet.paste(small.resize(_fitting(image.shape, cell), Image.Resampling.NEAREST), (x, y))
        sheets.append(sheet)
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height
    with written_whole(path) as temporary:
        whole.save(temporary, "PNG")


def _sampled(family: Any, split: str, task: int) -> tuple[Data, Data]:
    """Support and query of a task by itself, since tasks of several meta-steps may be of several sizes."""
    batch = family.sample(split, [task])
    support, query = ({name: value[0] for name, value in part.items()} for part in (batch.support, batch.query))
    return support, query


def _fitting(shape: tuple[int, ...], cell: int) -> tuple[int, int]:
    """Width and height of an image that fills a cell."""
    scale = cell / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


_Pixels = NDArray[np.uint8]


def _lines(support: Data, query: Data) -> list[tuple[int, list[_Pixels], list[_Pixels]]]:
    """Label, support and query images (H, W, 3) of each class."""
    lines = []
    for label in sorted(set(support["y"].tolist())):
        shots, queries = (
            [_pixels(data["x"][index]) for index in (data["y"] == label).nonzero().flatten()]
            for data in (support, query)
        )
        lines.append((label, shots[:_MOST_QUERIES], queries[:_MOST_QUERIES]))
    return lines


def _pixels(image: Any) -> _Pixels:
    plain = (image.clamp(0, 1) * 255).round().byte().cpu().numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(plain, (*plain.shape[:2], 3)))


def _drawn(support: Data, query: Data, console: Console) -> Iterator[Text]:
    """A line of characters for each two rows of pixels, in colours where there are any."""
    from PIL import Image

    for label, shots, queries in _lines(support, query):
        count = len(shots) + len(queries)
        height, width = shots[0].shape[:2]
        wide = max(4, min(width, (console.width - 8) // count - 1))
        high = max(2, round(height * wide / width) // 2 * 2)
        strips = []
        for image in [*shots, *queries]:
            small = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BOX))
            strips.append(np.pad(small, ((0, 0), (0, 1), (0, 0))))
        strips.insert(len(shots), np.full((high, 2, 3), 96, np.uint8))
        line = np.concatenate(strips, 1)
        for y in range(0, high, 2):
            start = f"{label:>3} " if y == 0 else " " * 4
            yield _half_blocks(start, line[y], line[y + 1], console.color_system is not None)


def _half_blocks(start: str, upper: _Pixels, lower: _Pixels, colours: bool) -> Text:
    text = Text(start, no_wrap=True)
    for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
        if colours:
            text.append("▀", style=f"rgb({','.join(map(str, above))}) on rgb({','.join(map(str, below))})")
        else:
            text.append(_SHADES[int((sum(above) + sum(below)) / 6 / 256 * len(_SHADES))])
    return text


def _listed(title: str, support: Data, query: Data) -> Table:
    """Inputs and targets of the first examples, as numbers."""
    table = Table(title=Text(title))
    names = list(support)
    for column in ("", *names):
        table.add_column(Text(column))
    for part, data in (("support", support), ("query", query)):
        count = len(data[names[0]])
        for at in range(min(count, _ROWS)):
            table.add_row(part, *(Text(_number(data[name][at])) for name in names))
        if count > _ROWS:
            table.add_row("", Text(f"... {count - _ROWS} more"))
        table.add_section()
    return table


def _number(value: Any) -> str:
    flat = value.flatten().tolist()
    shown = " ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in flat[:8])
    return shown + (f" ... ({len(flat)} numbers)" if len(flat) > 8 else "")
