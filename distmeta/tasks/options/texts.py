"""Settings of the text families."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from distmeta.config.anchors import DataRoot, anchored
from distmeta.config.sections import DrawnWays
from distmeta.config.splits import SplitColumn, SplitFractions, SplitNames, Splits
from distmeta.data.tokenization import TRAINED
from distmeta.tasks.options.episodes import EpisodeOptions


class EncodingOptions(EpisodeOptions):
    """Settings that every text family has: classes a task, support and query texts a class, and how texts are encoded.

    ``tokenizer`` is ``words``, ``ngrams`` (runs of characters within words, as short and as long as ``ngrams`` says),
    ``bpe`` or ``wordpiece``, trained on the texts of the training classes alone, or the path of a ``tokenizer.json``.
    ``vocabulary`` bounds the number of its tokens, padding and the one for unknown pieces included; ``buckets`` are
    further tokens for unknown words or runs, by a hash of them. ``length`` tokens of a text are used; shorter texts are
    filled up, and the input ``mask`` says with what. ``ways`` and ``shots`` may be sections ``{min, max}`` to draw them
    from for every meta-step; ``examples`` keeps shots and queries of a class together constant.
    """

    objective: str = "cross_entropy"

    ways: DrawnWays = 5
    tokenizer: str = "words"
    vocabulary: Annotated[int, Field(ge=3, le=2**24)] = 8192
    ngrams: tuple[PositiveInt, PositiveInt] = (3, 5)
    buckets: Annotated[NonNegativeInt, Field(le=2**24)] = 0
    lowercase: bool = True
    length: Annotated[PositiveInt, Field(le=2**16)] = 32
    splits: Splits = SplitFractions()

    @field_validator("tokenizer")
    @classmethod
    def _anchor(cls, tokenizer: str) -> str:
        """Workers and resumed runs may have another working directory."""
        return tokenizer if tokenizer in TRAINED else anchored(tokenizer)

    @model_validator(mode="after")
    def _check_tokenizer(self) -> EncodingOptions:
        if self.ngrams[0] > self.ngrams[1]:
            raise ValueError(f"tasks.ngrams = {list(self.ngrams)}: expected [shortest, longest]")
        if self.buckets and self.tokenizer not in ("words", "ngrams"):
            raise ValueError(
                f"tasks.buckets = {self.buckets} are for unknown words and ngrams, and tasks.tokenizer = "
                f"{self.tokenizer} has none of these; leave it out"
            )
        return self


class TextOptions(EncodingOptions):
    """Settings under ``tasks`` for ``kind: text``.

    ``root`` is a file or URI of texts with labels (CSV with a header, Parquet, or JSON with an object a line), or a
    folder of such files; ``text`` and ``label`` name its columns. ``splits`` divides the classes; with a column
    ``group`` (domains, for example) the groups, of which each goes whole into one split.
    """

    root: DataRoot
    text: str = "text"
    label: str = "label"
    group: str | None = None


class Clinc150Options(EncodingOptions):
    """Settings under ``tasks`` for ``kind: clinc150``.

    ``root`` is a folder or URI with ``data_full.json`` and ``domains.json``, there or in its subfolder ``clinc150/``;
    left out, ``DISTMETA_DATA`` is. ``splits`` divides the ten domains.
    """

    root: DataRoot | None = None
    splits: Splits = SplitNames(
        train=("auto_and_commute", "banking", "home", "meta", "small_talk", "travel"),
        validation=("utility", "work"),
        test=("credit_cards", "kitchen_and_dining"),
    )

    @field_validator("splits")
    @classmethod
    def _check_splits(cls, splits: Splits) -> Splits:
        if isinstance(splits, SplitColumn):
            raise ValueError("tasks.splits: CLINC150 has no columns; give lists of domains, or fractions")
        return splits
