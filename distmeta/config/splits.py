"""``splits`` under ``tasks``: which classes, or which tasks of a table, are for training, validation and test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from distmeta.config.anchors import anchored
from distmeta.config.sections import Section, Seed
from distmeta.core.quoting import shown
from distmeta.core.records import SPLITS, Split


def _listing(value: Any) -> Any:
    """Names are text; a whole number is taken for one, since tasks are often numbered."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"expected a list of names, or a text file with one a line, got {shown(value)}")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ValueError(
                f"expected names, got {shown(name)}; put a name in quotes that YAML takes for something else"
            )
    return tuple(map(str, value))


SplitListing = Annotated[tuple[str, ...] | str, BeforeValidator(_listing)]
"""Names, or the path or URI of a text file with one a line."""

SplitFraction = Annotated[float, Field(gt=0, lt=1)]


class SplitColumn(Section):
    """``splits: {column: NAME}``: the data have a column whose values are ``train``, ``validation`` and ``test``."""

    column: str


class SplitNames(Section):
    """``splits: {train: [...], validation: [...], test: [...]}``: names, or a text file with one a line, for each.

    Names that stand in none of the three are not used.
    """

    train: SplitListing
    validation: SplitListing
    test: SplitListing

    @field_validator("train", "validation", "test")
    @classmethod
    def _anchor(cls, names: tuple[str, ...] | str) -> tuple[str, ...] | str:
        """Workers and resumed runs may have another working directory."""
        return anchored(names) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _check_apart(self) -> SplitNames:
        check_apart((name, split, "") for split, names in self.lists() for name in names)
        return self

    def lists(self) -> Iterator[tuple[Split, tuple[str, ...]]]:
        """The splits whose names stand here."""
        for split in SPLITS:
            names = getattr(self, split)
            if not isinstance(names, str):
                yield split, names

    def files(self) -> Iterator[tuple[Split, str]]:
        """The splits whose names stand in a file."""
        for split in SPLITS:
            names = getattr(self, split)
            if isinstance(names, str):
                yield split, names


class SplitFractions(Section):
    """``splits: {train: .64, validation: .16, test: .2, seed: 0}``: fractions of the names, drawn by ``seed``.

    The names are put in the order of a hash of the seed and the name, and cut by the rounded fractions. So the split is
    the same on every machine.
    """

    train: SplitFraction = 0.64
    validation: SplitFraction = 0.16
    test: SplitFraction = 0.2
    seed: Seed = 0

    @model_validator(mode="after")
    def _check_sum(self) -> SplitFractions:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1, abs_tol=1e-3):
            raise ValueError(f"the fractions for train, validation and test make {total:g}: expected 1")
        return self


def _form(value: Any) -> str | None:
    """Which of the three a value is, by its keys and what stands under them."""
    if isinstance(value, SplitColumn | SplitNames | SplitFractions):
        return {SplitColumn: "by_column", SplitNames: "by_names", SplitFractions: "by_fractions"}[type(value)]
    if not isinstance(value, Mapping):
        return None
    if "column" in value:
        return "by_column"
    if "seed" in value or any(isinstance(value.get(split), int | float) for split in SPLITS):
        return "by_fractions"
    return "by_names"


Splits = Annotated[
    Annotated[SplitColumn, Tag("by_column")]
    | Annotated[SplitNames, Tag("by_names")]
    | Annotated[SplitFractions, Tag("by_fractions")],
    Discriminator(
        _form,
        custom_error_type="splits_form",
        custom_error_message=(
            "Expected {column: NAME}, or for each of train, validation and test a list of names, a text file with one "
            "a line, or a fraction"
        ),
    ),
]
"""The type of the setting ``splits``."""


def check_apart(placed: Iterator[tuple[str, Split, str]]) -> None:
    """Refuse a name that is given twice.

    Args:
        placed: each name with its split and the file and line it stands in, if it does in one.

    Raises:
        ValueError: naming it.
    """
    first: dict[str, tuple[Split, str]] = {}
    for name, split, place in placed:
        if name in first:
            other, its = first[name]
            where = f"in {other}{its} and in {split}{place}" if other != split else f"twice in {split}{its}{place}"
            raise ValueError(f"{shown(name)} stands {where}: expected each name in one split, once")
        first[name] = split, place
