"""Requests' bodies, checked: JSON, Arrow, or images in a form; whatever else they hold is refused by name."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from distmeta.errors import ConfigError
from distmeta.runs.class_labels import label_indices, own_classes, shared_classes
from distmeta.runs.inference import MetaLearner
from distmeta.runs.input_kinds import input_kind
from distmeta.tasks import TASKS
from distmeta.tasks.options import TableOptions

ARROW = "application/vnd.apache.arrow.stream"
BODY_FIELDS = {"inputs", "images", "texts", "columns", "labels", "targets", "steps", "model"}
"""Fields of a JSON body."""

MOST_CHARACTERS = 100_000
"""Characters of a text."""

MOST_DIGITS = 18
"""Digits of a number in a header or a form; Python refuses to read thousands of them."""

_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
"""What JSON has wherever half of a surrogate pair may come of it; UTF-16 and UTF-32 have null bytes."""


class BadRequest(Exception):
    """A request that cannot be answered; its message is for whoever sent it.

    Attributes:
        status: of the answer, 400 to 499.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Body:
    """What a request asks for.

    Attributes:
        inputs: as the learner takes them.
        count: examples.
        labels: classes or values of each; ``None`` where there are none.
        options: other fields.
    """

    inputs: Any
    count: int
    labels: Sequence[Any] | None
    options: Mapping[str, Any] = field(default_factory=dict)


class BodyReader:
    """Reads bodies for one learner.

    Args:
        learner: whose inputs are wanted.
        most: examples of a request.
    """

    def __init__(self, learner: MetaLearner, most: int) -> None:
        self._most = most
        self._options = learner.config.tasks
        self.kind = input_kind(self._options, learner.parts.spec.inputs)

    def read(self, content: bytes, kind: str) -> Body:
        """A JSON or Arrow body.

        Raises:
            BadRequest: telling what is wrong.
        """
        plain = kind.partition(";")[0].strip().lower()
        if plain == "application/json":
            return self._of_json(content)
        if plain == ARROW:
            return self._of_arrow(content)
        raise BadRequest(f"Content-Type: expected application/json, {ARROW} or multipart/form-data", 415)

    def of_images(self, images: Sequence[bytes], labels: Sequence[str] | None, options: Mapping[str, Any]) -> Body:
        """Images of a form, each under its label."""
        if self.kind != "images":
            raise BadRequest(f"this learner takes {self.kind}, no images", 415)
        self._check_count(len(images))
        check_characters("labels", labels)
        check_characters("fields", options)
        return Body(self._decoded(images), len(images), labels, options)

    def _of_json(self, content: bytes) -> Body:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            raise BadRequest("the body is no JSON") from None
        if not isinstance(values, dict):
            raise BadRequest("the body is no JSON object")
        if _ESCAPED.search(content):
            for name, value in values.items():
                check_characters(f"{name!r:.60}", [name, value])
        if unknown := sorted(set(values) - BODY_FIELDS):
            raise BadRequest(f"{unknown[0]!r:.60}: there is no such field; there are {', '.join(sorted(BODY_FIELDS))}")
        given = [name for name in ("inputs", "images", "texts", "columns") if name in values]
        if len(given) != 1:
            raise BadRequest(f"expected one of inputs, images, texts and columns; {self.kind} fit this learner")
        name = given[0]
        if name != self.kind and name != "inputs":
            raise BadRequest(f"this learner takes {self.kind}, not {name}")
        inputs, count = self._inputs(name, values[name])
        labels = values.get("labels", values.get("targets"))
        if labels is not None and (not isinstance(labels, list) or len(labels) != count):
            raise BadRequest(f"labels: expected a list of {count}, one for each example")
        options = {key: values[key] for key in ("steps", "model") if key in values}
        return Body(inputs, count, labels, options)

    def _inputs(self, name: str, value: Any) -> tuple[Any, int]:
        if name == "columns":
            if not isinstance(value, dict) or not value or not all(isinstance(each, list) for each in value.values()):
                raise BadRequest("columns: expected an object of lists by the columns' names")
            count = self._check_count(len(next(iter(value.values()))))
            return value, count
        if name == "inputs" and isinstance(value, dict):
            if wrong := [key for key, each in value.items() if not isinstance(each, list)]:
                raise BadRequest(f"inputs.{wrong[0]:.60}: expected a list, with an entry for each example")
            found = {key: self._array(each, f"inputs.{key:.60}") for key, each in value.items()}
            count = len(next(iter(found.values()))) if found else 0
            return found, self._check_count(count)
        if not isinstance(value, list):
            raise BadRequest(f"{name}: expected a list")
        count = self._check_count(len(value))
        if name == "texts":
            return self._texts(value, "texts"), count
        if name == "images":
            return self._decoded([self._bytes(each, at) for at, each in enumerate(value)]), count
        return self._array(value, "inputs"), count

    def _of_arrow(self, content: bytes) -> Body:
        import pyarrow as pa

        try:
            with pa.ipc.open_stream(io.BytesIO(content)) as stream:
                table = stream.read_all()
            table.validate(full=True)
            names = table.column_names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadRequest(f"the body is no stream of Arrow's: {' '.join(str(error).split()):.200}") from None
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadRequest(f"the table has several columns {twice[0]!r:.60}; keep one of them")
        count = self._check_count(table.num_rows)
        target = list(self._options.target) if isinstance(self._options, TableOptions) else ["label"]
        labels: list[Any] | None = None
        if set(target) <= set(names):
            columns = [_values(table, name) for name in target]
            labels = columns[0] if len(columns) == 1 else [list(row) for row in zip(*columns, strict=True)]
        if self.kind == "columns":
            return Body(table, count, labels)
        wanted = {"texts": getattr(self._options, "text", "text"), "images": "image"}.get(self.kind)
        if wanted is None:
            raise BadRequest("this learner takes inputs as JSON", 415)
        if wanted not in names:
            raise BadRequest(f"the table has no column {wanted!r}")
        values = _values(table, wanted)
        if self.kind == "texts":
            return Body(self._texts(values, wanted), count, labels)
        if not all(isinstance(each, bytes) for each in values):
            raise BadRequest("image: expected binary values, the content of image files")
        return Body(self._decoded(values), count, labels)

    def _check_count(self, count: int) -> int:
        if not 0 < count <= self._most:
            raise BadRequest(f"expected 1 to {self._most:,} examples, got {count:,}", 413 if count else 400)
        return count

    def _decoded(self, images: Sequence[bytes]) -> torch.Tensor:
        family = TASKS[self._options.kind]
        found = []
        for at, content in enumerate(images):
            try:
                found.append(family.picture(self._options, content))
            except Exception as error:  # Pillow raises CRC, zlib, struct, syntax and other errors for damaged files
                reason = " ".join(str(error).split())
                raise BadRequest(f"images[{at}] cannot be read: {reason:.200}") from None
        return torch.stack(found)

    @staticmethod
    def _texts(values: list[Any], name: str) -> list[Any]:
        if not all(isinstance(each, str) and len(each) <= MOST_CHARACTERS for each in values):
            raise BadRequest(f"{name}: expected texts of at most {MOST_CHARACTERS:,} characters")
        return values

    @staticmethod
    def _bytes(value: Any, at: int) -> bytes:
        if not isinstance(value, str):
            raise BadRequest(f"images[{at}]: expected base64 text, or a data: URI")
        text = value.partition(",")[2] if value.startswith("data:") else value
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest(f"images[{at}]: expected base64 text, or a data: URI") from None

    @staticmethod
    def _array(value: Any, name: str) -> torch.Tensor:
        try:
            tensor = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise BadRequest(f"{name}: expected lists of numbers, all rows of one shape") from None
        return tensor.float() if tensor.dtype == torch.float64 else tensor


def targets_of(learner: MetaLearner, labels: Sequence[Any]) -> tuple[Any, list[Any] | None]:
    """Targets as the learner takes them, and what its classes stand for; ``None`` where there are no classes.

    Raises:
        BadRequest: labels of several kinds, or values that are no numbers.
    """
    if learner.parts.objective.classes:
        if not all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in labels):
            raise BadRequest("labels: expected texts or whole numbers")
        shared = shared_classes(learner)
        if shared is not None:
            return list(labels), shared
        if len({type(each) for each in labels}) > 1:
            raise BadRequest("labels: expected texts, or whole numbers, not both")
        classes = own_classes(labels)
        return label_indices(labels, classes), classes
    try:
        values = torch.tensor(labels, dtype=torch.float64)
        values = values.reshape(len(values), -1)  # which empty lists do not take
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise BadRequest("targets: expected numbers, or lists of as many") from None
    if not all(map(math.isfinite, values.flatten().tolist())):
        raise BadRequest("targets: expected finite numbers")
    return values.float(), None


def whole_number(text: str) -> int | str:
    """The whole number that a header or a field of a form is; what is none, or is too long for any, stays text.

    >>> whole_number("12"), whole_number("-1"), whole_number("\\u00b2")
    (12, '-1', '²')
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else text


def check_characters(name: str, value: Any) -> None:
    """Refuse text with half of a surrogate pair: JSON can hold it, but no answer that quotes it can be sent.

    Raises:
        BadRequest: naming the field.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{name}: expected text of whole characters, got half of a surrogate pair") from None
    except RecursionError:
        raise BadRequest(f"{name}: it is nested too deeply") from None


def _values(table: Any, name: str) -> list[Any]:
    """A column's values; times beyond those of Python have none."""
    try:
        values: list[Any] = table.column(name).to_pylist()
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{name!r:.60} cannot be read: {' '.join(str(error).split()):.200}") from None
    return values


def refused(error: ConfigError) -> BadRequest:
    """What the learner refused, for whoever asked."""
    return BadRequest(" ".join(str(error).split()), 422)
