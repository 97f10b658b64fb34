"""Texts as whole numbers: tokenizers that are trained on some texts, kept as JSON values, and used anywhere."""

from __future__ import annotations

import importlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distmeta.core.quoting import shown
from distmeta.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PADDING, UNKNOWN_PIECE = 0, 1
"""Tokens of every tokenizer that is trained here: what fills short texts up, and pieces that it does not know."""

TRAINED = ("words", "ngrams", "bpe", "wordpiece")
"""Tokenizers that are trained on the training classes' texts; any other name is the path of a file."""

_LARGEST_FILE = 2**28
_MOST_TOKENS = 2**24
_MARKS = ["[PAD]", "[UNK]"]


class Encoder(Protocol):
    """Turns texts into tokens 0 ... size - 1.

    Attributes:
        size: how many tokens there are.
        known: the first so many of them may have been seen in training; those after them stand for unknown pieces.
    """

    size: int
    known: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, none of them padding."""
        ...

    def name(self, token: int) -> str:
        """What a token stands for, as people read it."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON values of which :func:`restore` makes the same encoder."""
        ...


class PieceEncoder:
    """Words, or runs of characters within words, by a list of those that are known.

    A text is normalised (NFKC), put in lower case if so asked, and cut into runs of letters and digits and runs of
    other signs. With ``ngrams`` (low, high) a word w counts as all runs of low to high characters of `` w ``, and as
    that itself where it is longer or shorter. What is not in the list is token 1, or with ``buckets`` one of so many
    more tokens, by a hash of it: two texts that share an unknown word then still share a token.

    Args:
        vocabulary: what is known; token 2 is the first.
        lowercase: whether capital letters are small ones.
        ngrams: shortest and longest run; ``None`` for whole words.
        buckets: tokens for what is unknown.

    >>> encoder = PieceEncoder(["pay", "my", "bill"], buckets=8)
    >>> encoder.encode(["Pay my bill", "pay my rent"])
    [[2, 3, 4], [2, 3, 9]]
    >>> list(PieceEncoder([], ngrams=(3, 4)).pieces("Pay!"))[:5]
    [' pa', 'pay', 'ay ', ' pay', 'pay ']
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        lowercase: bool = True,
        ngrams: tuple[int, int] | None = None,
        buckets: int = 0,
    ) -> None:
        library = _library()
        steps = [library.normalizers.NFKC(), *([library.normalizers.Lowercase()] if lowercase else [])]
        self._normalizer = library.normalizers.Sequence(steps)
        self._splitter = library.pre_tokenizers.Whitespace()
        self._vocabulary = list(vocabulary)
        self._token = {piece: token for token, piece in enumerate(self._vocabulary, len(_MARKS))}
        self._lowercase, self._ngrams, self._buckets = lowercase, ngrams, buckets
        self.known = len(_MARKS) + len(self._vocabulary)
        self.size = self.known + buckets

    def pieces(self, text: str) -> Iterator[str]:
        """What a text is cut into, in its order."""
        for word, _ in self._splitter.pre_tokenize_str(self._normalizer.normalize_str(text)):
            if self._ngrams is None:
                yield word
                continue
            low, high = self._ngrams
            padded = f" {word} "
            for length in range(low, high + 1):
                for start in range(len(padded) - length + 1):
                    yield padded[start : start + length]
            if not low <= len(padded) <= high:
                yield padded

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text."""
        token, other = self._token, self._other
        return [[token[piece] if piece in token else other(piece) for piece in self.pieces(text)] for text in texts]

    def name(self, token: int) -> str:
        """The piece; of unknown ones the number of their bucket."""
        if token < len(_MARKS):
            return _MARKS[token]
        return self._vocabulary[token - len(_MARKS)] if token < self.known else f"[UNK {token - self.known}]"

    def state(self) -> dict[str, Any]:
        """The settings and the list."""
        return {
            "kind": "pieces",
            "vocabulary": self._vocabulary,
            "lowercase": self._lowercase,
            "ngrams": None if self._ngrams is None else list(self._ngrams),
            "buckets": self._buckets,
        }

    def _other(self, piece: str) -> int:
        return self.known + zlib.crc32(piece.encode()) % self._buckets if self._buckets else UNKNOWN_PIECE


class LibraryEncoder:
    """A tokenizer of the package ``tokenizers``, with its own normalisation, marks and vocabulary.

    Args:
        description: the content of a ``tokenizer.json``.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, description: str) -> None:
        try:
            self._tokenizer = _library().Tokenizer.from_str(description)
        except ConfigError:
            raise
        except Exception as error:  # the package raises plain exceptions
            raise ValueError(" ".join(str(error).split())) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._description = description
        tokens = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.known = self.size = max(tokens, default=-1) + 1
        if not 0 < self.size <= _MOST_TOKENS:
            raise ValueError(f"expected tokens 0 to {_MOST_TOKENS - 1:,} at most, but the largest is {self.size - 1:,}")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, with the marks that its own post-processor adds."""
        try:
            return [each.ids for each in self._tokenizer.encode_batch(list(texts))]
        except Exception as error:  # of the package: a tokenizer that knows no unknown words, for example
            reason = shown(" ".join(str(error).split()))[1:-1]
            raise DataError(
                f"the tokenizer cannot encode {shown(texts[0])} or a text after it ({reason}); use one that has a "
                "token for what it does not know"
            ) from None

    def name(self, token: int) -> str:
        """The token, as the package has it."""
        return str(self._tokenizer.id_to_token(token))

    def state(self) -> dict[str, Any]:
        """The description."""
        return {"kind": "tokenizers", "description": self._description}


def train(kind: str, texts: Callable[[], Iterable[Sequence[str]]], options: Any) -> Encoder:
    """An encoder learned from some texts, or read from a file.

    Args:
        kind: one of :data:`TRAINED`, or the path of a ``tokenizer.json``.
        texts: gives the texts, batch by batch.
        options: with ``vocabulary``, ``lowercase``, ``ngrams`` and ``buckets``.

    Raises:
        ConfigError: the package ``tokenizers`` is missing.
        DataError: the file is missing or no tokenizer.
    """
    if kind not in TRAINED:
        return _read(kind)
    if kind in ("words", "ngrams"):
        return _count(texts, options, options.ngrams if kind == "ngrams" else None)
    library = _library()
    lower = [library.normalizers.Lowercase()] if options.lowercase else []
    model, trainer = {
        "bpe": (library.models.BPE, library.trainers.BpeTrainer),
        "wordpiece": (library.models.WordPiece, library.trainers.WordPieceTrainer),
    }[kind]
    tokenizer = library.Tokenizer(model(unk_token=_MARKS[UNKNOWN_PIECE]))
    tokenizer.normalizer = library.normalizers.Sequence([library.normalizers.NFKC(), *lower])
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    settings = trainer(vocab_size=options.vocabulary, special_tokens=_MARKS, show_progress=False)
    tokenizer.train_from_iterator(texts(), settings)
    return LibraryEncoder(tokenizer.to_str())


def restore(state: Mapping[str, Any]) -> Encoder:
    """The encoder of which these are the values.

    Raises:
        DataError: they are no encoder's.
    """
    try:
        if state["kind"] == "tokenizers":
            return LibraryEncoder(state["description"])
        ngrams = state["ngrams"]
        return PieceEncoder(
            [str(piece) for piece in state["vocabulary"]],
            lowercase=bool(state["lowercase"]),
            ngrams=None if ngrams is None else (int(ngrams[0]), int(ngrams[1])),
            buckets=int(state["buckets"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"the run's tokenizer is damaged ({type(error).__name__}: {error}); restore its file") from None


def inverse_frequencies(encoder: Encoder, texts: Iterable[Sequence[str]]) -> tuple[list[float], float]:
    """How rare each token is: ``ln((1 + n) / (1 + n_t)) + 1`` of n texts, n_t with the token (scikit-learn's form).

    Returns:
        (encoder.known,) numbers, rounded to six digits after the point, and that of a token that no text has.
    """
    import numpy as np

    count, holding = 0, np.zeros(encoder.size, np.int64)
    for batch in texts:
        for tokens in encoder.encode(batch):
            holding[np.unique(np.array(tokens, np.int64))] += 1
        count += len(batch)
    rare: NDArray[np.float64] = np.log((1 + count) / (1 + holding[: encoder.known])) + 1
    return [round(float(value), 6) for value in rare], round(float(np.log(1 + count) + 1), 6)


def padded(encoder: Encoder, texts: Sequence[str], length: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens (N, length) and how many of them are there (N,): longer texts are cut, shorter ones filled up."""
    import numpy as np

    tokens = np.full((len(texts), length), PADDING, np.int32)
    counts = np.zeros(len(texts), np.int32)
    for row, found in enumerate(encoder.encode(texts)):
        kept = found[:length]
        tokens[row, : len(kept)] = kept
        counts[row] = len(kept)
    return tokens, counts


def _count(texts: Callable[[], Iterable[Sequence[str]]], options: Any, ngrams: tuple[int, int] | None) -> PieceEncoder:
    """The most frequent pieces, by name where they are equally frequent."""
    cutter = PieceEncoder([], lowercase=options.lowercase, ngrams=ngrams)
    found: Counter[str] = Counter()
    for batch in texts():
        for text in batch:
            found.update(cutter.pieces(text))
    order = sorted(found, key=lambda piece: (-found[piece], piece))
    kept = order[: options.vocabulary - len(_MARKS)]
    return PieceEncoder(kept, lowercase=options.lowercase, ngrams=ngrams, buckets=options.buckets)


def _read(path: str) -> LibraryEncoder:
    try:
        if Path(path).stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it is longer than {_LARGEST_FILE:,} bytes")
        description = Path(path).read_text(encoding="utf-8")
        json.loads(description)
        return LibraryEncoder(description)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"tasks.tokenizer = {shown(path)}: cannot be read as a tokenizer ({shown(reason)[1:-1]}); expected "
            f"{', '.join(TRAINED)}, or the path of a tokenizer.json as the package tokenizers writes it"
        ) from None


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        raise ConfigError("texts need the package tokenizers: pip install distmeta[text]") from None
