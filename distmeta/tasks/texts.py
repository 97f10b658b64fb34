"""Texts with labels: intents, topics, authors, from a table of the user's or from CLINC150."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distmeta.config.sections import TaskOptions, limits
from distmeta.config.splits import SplitColumn
from distmeta.core.hashing import sha256
from distmeta.core.quoting import BAD_TEXT, shown
from distmeta.core.records import SPLITS, Split, TaskBatch, TensorSpec
from distmeta.data.clinc import Clinc
from distmeta.data.splits import moved_splits, split_contents, split_files, split_names
from distmeta.data.text_source import TextIndex, TextSource, TextTable, index_texts, logged_rows
from distmeta.data.token_store import TEXT_STORE_VERSION, TokenStore, write_tokens
from distmeta.data.tokenization import inverse_frequencies, padded, restore, train
from distmeta.data.verified import check_store
from distmeta.errors import ConfigError, DataError
from distmeta.storage.cache import build_once, cache_for
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec
from distmeta.tasks.drawing import check_episode, draw_examples
from distmeta.tasks.options import Clinc150Options, EncodingOptions, TextOptions

TEXT_STORE = "texts.arrow"
"""Encoded texts as workers on other hosts get them."""


class Text(TaskFamily):
    """Classes of short texts: ``tokens`` (T, N, length) int64, ``mask`` (T, N, length) float32, ``y`` (T, N) int64.

    A task takes ``ways`` classes of its split, and of each ``shots + queries`` texts. The tokenizer and the tokens'
    first weights (inverse document frequencies) come from the texts of the training classes alone; they are computed
    once and stay with the run. A word that was not among those is an unknown one, see ``tasks.buckets``. All texts are
    encoded once a host, into a file of the cache, from which shards are gathered.

    >>> import os, tempfile
    >>> os.environ["DISTMETA_CACHE"] = folder = tempfile.mkdtemp()
    >>> lines = [f"word{i} is number {j},class{i}" for i in range(9) for j in range(4)]
    >>> _ = Path(folder, "texts.csv").write_text("\\n".join(["text,label", *lines]))
    >>> options = Text.Options(kind="text", root=f"{folder}/texts.csv", length=6)
    >>> family = Text(options, {"train": Episode(shots=1, queries=2, seed=0, ways=5)}, torch.device("cpu"))
    >>> family.sample("train", range(8)).query["tokens"].shape
    torch.Size([8, 10, 6])
    """

    Options: type[TaskOptions] = TextOptions

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._store, self._splits = self._open(_settings(options), episodes)
        self._episodes, self._device = dict(episodes), device
        self._options = _settings(options)

    @classmethod
    def source(cls, options: TaskOptions) -> TextSource:
        """Where the texts are. Raises ``DataError`` where there are none."""
        assert isinstance(options, TextOptions)
        column = options.splits.column if isinstance(options.splits, SplitColumn) else None
        seen: dict[str, str] = {}
        roles = {"text": options.text, "label": options.label, "group": options.group, "splits.column": column}
        for role, name in roles.items():
            if name in seen:
                raise ConfigError(
                    f"tasks.{role} and tasks.{seen[name]} both name the column {shown(name)}: expected one column for "
                    "each"
                )
            seen |= {} if name is None else {name: role}
        return TextTable(options.root, options.text, options.label, options.group, column)

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any] | None:
        """The tokenizer, how many tokens it has, and what they weigh at first."""
        settings = _settings(options)
        source = cls.source(settings)
        index = index_texts(source, settings.splits)
        splits = _divided(index, settings, source.place)
        _check_episodes(index, splits, episodes)
        training = np.isin(index.codes, splits["train"])

        def texts() -> Iterator[list[str]]:
            first = 0
            for rows in logged_rows(source, "learning tokens", len(training)):
                chosen = training[first : first + len(rows.texts)]
                yield [text for text, wanted in zip(rows.texts, chosen, strict=True) if wanted]
                first += len(rows.texts)

        encoder = train(settings.tokenizer, texts, settings)
        weights, unseen = inverse_frequencies(encoder, texts())
        learned = {"tokenizer": encoder.state(), "size": encoder.size, "weights": weights, "unseen": unseen}
        return {**learned, "settings": _learned_by(settings)}

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Encode the texts on this host unless they are there, and check the episodes; raises as opening does."""
        cls._open(_settings(options), episodes)

    @classmethod
    def _open(
        cls, options: EncodingOptions, episodes: Mapping[Split, Episode]
    ) -> tuple[TokenStore, Mapping[Split, NDArray[np.int64]]]:
        """The encoded texts, and the classes of each split."""
        store, place = cls._stored(options, episodes)
        splits = _divided(store.index, options, place)
        _check_episodes(store.index, splits, episodes)
        return store, splits

    @classmethod
    def _stored(cls, options: EncodingOptions, episodes: Mapping[Split, Episode]) -> tuple[TokenStore, str]:
        """The encoded texts, and what messages call their source."""
        root = getattr(options, "root", None)
        if root is not None and Path(root).name == TEXT_STORE:
            store = TokenStore.open(Path(root))
            if store.length != options.length:
                raise DataError(f"{root} has texts of {store.length} tokens, not of tasks.length = {options.length}")
            return store, root
        learned = _fitted(options) or _fitted(options.with_fitted(cls.fit(options, episodes)))
        assert learned is not None
        tokenizer = learned.tokenizer
        source = cls.source(options)
        column = options.splits.column if isinstance(options.splits, SplitColumn) else None
        parts = [source.version(), tokenizer, options.length, column]
        name = f"texts-{TEXT_STORE_VERSION}-{sha256(json.dumps(parts).encode())[:16]}.arrow"

        def build(path: Path) -> None:
            write_tokens(path, source, index_texts(source, options.splits), restore(tokenizer), options.length)

        return TokenStore.open(build_once(cache_for(name) / name, build)), source.place

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """Hashes of the texts with their labels, and of their tokens, which are checked."""
        settings = _settings(options)
        store, _ = cls._stored(settings, {})
        check_store(store)
        own = {options.kind: store.index.digest, f"{options.kind}, as tokens": store.content_hash}
        return {**own, **split_contents(settings.splits)}

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """The encoded texts, and files of names."""
        settings = _settings(options)
        return {TEXT_STORE: cls._stored(settings, {})[0].path, **split_files(settings.splits)}

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """With the encoded texts of this folder as ``root``."""
        splits = moved_splits(_settings(options).splits, folder)
        return options.model_copy(update={"root": str(folder / TEXT_STORE), "splits": splits})

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """Tokens and a mask in, the training ways out; how many tokens there are is known of a run's settings alone."""
        settings = _settings(options)
        fitted = _fitted(settings)
        shape = (settings.length,)
        tokens = TensorSpec(shape, "int64")
        if fitted is not None:
            tokens = TensorSpec(shape, "int64", values=fitted.size, weights=fitted.weights)
        return TaskSpec({"tokens": tokens, "mask": TensorSpec(shape)}, outputs=limits(settings.ways)[1])

    @classmethod
    def encode(cls, options: TaskOptions, values: Any) -> Mapping[str, Tensor] | None:
        """The inputs of a list of texts, by the run's own tokenizer; ``None`` where these are no texts.

        >>> Text.encode(Text.Options(kind="text", root="texts.csv"), torch.zeros(2)) is None
        True
        """
        if isinstance(values, str):
            raise ConfigError("expected a list of texts, got one text; put it into a list")
        if not isinstance(values, Sequence) or not values or not all(isinstance(value, str) for value in values):
            return None
        broken = next((value for value in values if BAD_TEXT.search(value)), None)
        if broken is not None:
            raise ConfigError(f"the text {shown(broken)} holds characters that no UTF-8 has; leave them out")
        settings = _settings(options)
        fitted = _fitted(settings)
        assert fitted is not None
        return _inputs(*padded(restore(fitted.tokenizer), values, settings.length))

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks, class by class, on the family's device (``ids`` stay on the CPU)."""
        rows, shots = self.draw(split, ids), self._episodes[split].at(ids).shots
        support, query = (self._data(part) for part in (rows[:, :, :shots], rows[:, :, shots:]))
        return TaskBatch(torch.from_numpy(np.array(ids, dtype=np.int64)), support, query)

    def draw(self, split: Split, ids: Sequence[int]) -> NDArray[np.int64]:
        """The source's rows, counted from 0, of these tasks' texts: (T, ways, shots + queries), the shots first."""
        classes, store = self._splits[split], self._store
        chosen, examples = draw_examples(self._episodes[split].at(ids), split, ids, store.counts[classes])
        rows: NDArray[np.int64] = store.order[store.first[classes[chosen]][..., None] + examples]
        return rows

    def texts(self, rows: NDArray[np.int64]) -> dict[int, tuple[str, str]]:
        """Text and label of some of the source's rows, by row.

        Raises:
            DataError: the source is not here, but on the host where the texts were encoded.
        """
        wanted, found, first = set(rows.reshape(-1).tolist()), {}, 0
        for part in self.source(self._options).rows():
            here = [row for row in range(first, first + len(part.texts)) if row in wanted]
            found.update({row: (part.texts[row - first], part.labels[row - first]) for row in here})
            first += len(part.texts)
            if len(found) == len(wanted):
                break
        return found

    def tokens(self, rows: NDArray[np.int64]) -> list[list[str]]:
        """The tokens of these rows (M,), as people read them."""
        fitted = _fitted(self._options)
        assert fitted is not None
        encoder = restore(fitted.tokenizer)
        encoded = zip(self._store.tokens(rows).tolist(), self._store.lengths(rows).tolist(), strict=True)
        return [[encoder.name(token) for token in tokens[:count]] for tokens, count in encoded]

    def class_count(self, split: Split) -> int:
        """Classes of a split."""
        return len(self._splits[split])

    def class_ids(self, split: Split, ids: Sequence[int]) -> Tensor:
        """(T, ways) int64 numbers of the classes that the labels of these tasks stand for."""
        counts = self._store.counts[self._splits[split]]
        chosen, _ = draw_examples(self._episodes[split].at(ids), split, ids, counts)
        return torch.from_numpy(chosen)

    def shots(self, split: Split, task: int) -> int:
        """Support texts of each class of a task."""
        return self._episodes[split].at([task]).shots

    def training_rows(self) -> NDArray[np.bool_]:
        """(rows,) which of the source's rows are of training classes."""
        return np.isin(self._store.index.codes, self._splits["train"])

    def _data(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Inputs and ``y`` of these rows (T, ways, examples)."""
        tasks, ways, examples = rows.shape
        flat = rows.reshape(-1)
        given = _inputs(self._store.tokens(flat), self._store.lengths(flat))
        found = {name: value.view(tasks, ways * examples, -1).to(self._device) for name, value in given.items()}
        labels = torch.arange(ways, device=self._device).repeat_interleave(examples)
        return {**found, "y": labels.repeat(tasks, 1)}


class Clinc150(Text):
    """CLINC150: 150 intents in 10 domains, 150 short English texts each; out-of-scope texts are left out.

    Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP 2019. By default
    the test is on the domains ``credit_cards`` and ``kitchen_and_dining`` (30 intents), validation on ``utility`` and
    ``work`` (30), training on the other six (90): no test text is about what training texts are about.
    """

    Options: type[TaskOptions] = Clinc150Options

    @classmethod
    def source(cls, options: TaskOptions) -> TextSource:
        """The two files, where ``root`` or ``DISTMETA_DATA`` says."""
        assert isinstance(options, Clinc150Options)
        return Clinc.find(options.root)


class _Fitted(NamedTuple):
    tokenizer: Mapping[str, Any]
    size: int
    weights: tuple[float, ...]


def _settings(options: TaskOptions) -> EncodingOptions:
    assert isinstance(options, EncodingOptions)
    return options


def _learned_by(options: EncodingOptions) -> dict[str, Any]:
    """The settings on which the tokenizer depends."""
    return options.model_dump(mode="json", include={"tokenizer", "vocabulary", "ngrams", "buckets", "lowercase"})


def _fitted(options: EncodingOptions) -> _Fitted | None:
    """What :meth:`Text.fit` gave, checked, since it may come out of a file."""
    if options.fitted is None:
        return None
    try:
        values = options.fitted
        for name, value in _learned_by(options).items():
            if values["settings"][name] != value:
                raise ConfigError(
                    f"tasks.{name} = {shown(value)}, but the run's tokenizer was made with {values['settings'][name]}; "
                    "leave it as it was, or start a new run"
                )
        size, known, unseen = int(values["size"]), [float(each) for each in values["weights"]], float(values["unseen"])
        weights = (*known, *[unseen] * (size - len(known)))
        if len(weights) != size or not all(0 < each < math.inf for each in weights):
            raise ValueError(f"{len(known):,} weights of {size:,} tokens")
        return _Fitted(values["tokenizer"], size, weights)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the run's tokens are damaged ({type(error).__name__}: {error}); restore its files") from None


def _divided(index: TextIndex, options: EncodingOptions, place: str) -> dict[Split, NDArray[np.int64]]:
    """The classes of each split; by groups where there are some."""
    if index.groups is None or isinstance(options.splits, SplitColumn):
        column = None if index.splits is None else dict(zip(index.classes, index.splits, strict=True))
        return split_names(index.classes, options.splits, place, "class", column)
    names = sorted(set(index.groups))
    chosen = split_names(names, options.splits, place, "group")
    of_class = np.searchsorted(names, index.groups)
    return {split: np.flatnonzero(np.isin(of_class, chosen[split])) for split in SPLITS}


def _check_episodes(
    index: TextIndex, splits: Mapping[Split, NDArray[np.int64]], episodes: Mapping[Split, Episode]
) -> None:
    counts = np.bincount(index.codes, minlength=len(index.classes)).astype(np.int64)
    for split, episode in episodes.items():
        classes = splits[split]
        check_episode(split, episode, counts[classes], [index.classes[at] for at in classes], "texts")


def _inputs(tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> dict[str, Tensor]:
    """Tokens (M, length) and a mask, as networks take them."""
    there = np.arange(tokens.shape[1]) < lengths[:, None]
    return {"tokens": torch.from_numpy(tokens.astype(np.int64)), "mask": torch.from_numpy(there.astype(np.float32))}
