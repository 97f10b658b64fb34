"""Images of given tasks: folders, archives, or a list of files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from distmeta.core.quoting import shown
from distmeta.data.images.files import DataFile, DataPlace, opened
from distmeta.data.images.sources import SUFFIXES
from distmeta.errors import DataError
from distmeta.runs.given.base import ONE, GivenExamples, same_file

Decode = Callable[[bytes], Tensor]
"""The content of a file to (C, H, W), as in training."""


class GivenImages:
    """Images in class folders, in task folders of these, or in a CSV list.

    - ``CLASS/NAME.png``: one task; ``TASK/CLASS/NAME.png``: several.
    - without labels ``NAME.png`` is one task, and ``TASK/NAME.png`` are several where the support set has several.
    - a CSV file with the column ``filename``, and ``label`` and ``task`` where there are such; files lie beside it.

    A folder may be packed as zip or tar.

    Args:
        place: path or URI.
        decode: of a file's content.
        labelled: whether there must be labels: those of a support set.
        several: whether the support set has several tasks; ``None`` for the support set itself.
    """

    def __init__(self, place: str, decode: Decode, labelled: bool, several: bool | None = None) -> None:
        self.place, self._decode = place, decode
        listing = place.lower().endswith(".csv")
        self.naming = "column 'task'" if listing else "folders of tasks (TASK/CLASS/NAME)"
        self._stack = ExitStack()
        try:
            at = DataPlace.at(place)
            listed = at.path.lower().endswith(".csv")
            found = self._of_list(at, labelled) if listed else self._of_folders(at, labelled, several)
            self.tasks = _grouped(found)
        except BaseException:
            self.close()
            raise
        if not self.tasks:
            raise DataError(f"{place} holds no images of the types {', '.join(SUFFIXES)}")

    def inputs(self, examples: GivenExamples) -> Tensor:
        """(N, C, H, W) images."""
        images = []
        for file in examples.source:
            try:
                images.append(self._decode(self._files.read(file)))
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise DataError(f"{self.place}: {shown(file.path)} cannot be read: {reason}; replace it") from None
        return torch.stack(images)

    def takes(self, path: Path) -> bool:
        """Whether a file is one of those that are read."""
        if same_file(self.place, path):
            return True
        names = {Path(file.path).name for each in self.tasks.values() for file in each.source}
        below = Path(self.place).resolve() in path.resolve().parents
        return below and path.name in names and path.exists()

    def close(self) -> None:
        """Close archives."""
        self._stack.close()

    def _of_folders(
        self, place: DataPlace, labelled: bool, several: bool | None
    ) -> Iterator[tuple[str, str | None, DataFile]]:
        self._files = self._stack.enter_context(opened(place))
        files = [file for file in self._files.list() if file.path.lower().endswith(SUFFIXES)]
        depths = {file.path.count("/") for file in files}
        if len(depths) > 1:
            raise DataError(
                f"{self.place}: images lie in folders of different depths; expected CLASS/NAME for one task, or "
                "TASK/CLASS/NAME for several"
            )
        depth = next(iter(depths), 1)
        if depth > 2 or (labelled and depth < 1):
            wanted = "CLASS/NAME for one task, or TASK/CLASS/NAME for several"
            raise DataError(f"{self.place}: expected images as {wanted}; there is {shown(files[0].path)}")
        for file in files:
            *folders, _ = file.path.split("/")
            if depth == 2:
                yield folders[0], folders[1], file
            elif depth == 1:
                yield (folders[0], None, file) if several else (ONE, folders[0], file)
            else:
                yield ONE, None, file

    def _of_list(self, place: DataPlace, labelled: bool) -> Iterator[tuple[str, str | None, DataFile]]:
        try:
            text = place.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{self.place} is no text in UTF-8; expected a CSV file, saved so") from None
        folder = place.path.rsplit("/", 1)[0] or "/"
        self._files = self._stack.enter_context(opened(DataPlace(folder, place.filesystem, folder, "folder")))
        there = {file.path: file for file in self._files.list()}
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = reader.fieldnames or []
        for wanted in ("filename", *(("label",) if labelled else ())):
            if wanted not in columns:
                raise DataError(f"{self.place} has no column {shown(wanted)}; it has {', '.join(map(shown, columns))}")
        for row in reader:
            name = (row["filename"] or "").removeprefix("./")
            file = there.get(name) or there.get(f"images/{name}")
            if file is None:
                raise DataError(f"{self.place}, line {reader.line_num}: there is no file {shown(name)} beside it")
            for column in {"task", "label"} & set(columns):
                if not (row[column] or "").strip():
                    raise DataError(f"{self.place}, line {reader.line_num}: nothing stands under {shown(column)}")
            yield row.get("task") or ONE, row.get("label"), file


def _grouped(found: Iterator[tuple[str, str | None, DataFile]]) -> dict[str, GivenExamples]:
    tasks: dict[str, list[tuple[str | None, DataFile]]] = {}
    for task, label, file in found:
        tasks.setdefault(task, []).append((label, file))
    return {task: _examples(each) for task, each in tasks.items()}


def _examples(found: Sequence[tuple[str | None, DataFile]]) -> GivenExamples:
    labels = [label for label, _ in found]
    known = [label for label in labels if label is not None]
    return GivenExamples([file.path for _, file in found], known or None, [file for _, file in found])
