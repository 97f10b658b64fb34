"""Reading pickles of arrays, in which some data sets come, without running what a pickle may name."""

from __future__ import annotations

import io
import pickle
from typing import Any

from distmeta.core.quoting import shown
from distmeta.errors import DataError

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}
"""What arrays, texts and dictionaries are pickled as; a pickle that names anything else is refused."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return super().find_class(module, name)


def arrays_of(content: bytes, name: str) -> dict[str, Any]:
    """A pickled dictionary of arrays, lists, texts and numbers; keys that are bytes become text.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        DataError: it is no such dictionary, or names anything else than arrays.

    >>> arrays_of(pickle.dumps({b"labels": [1, 2]}), "some.pkl")
    {'labels': [1, 2]}
    >>> arrays_of(pickle.dumps({"run": print}), "some.pkl")
    Traceback (most recent call last):
    distmeta.errors.DataError: some.pkl cannot be read (it names builtins.print, which could run code); ...
    """
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle gives errors of any kind
        reason = shown(" ".join(str(error).split()) or type(error).__name__)[1:-1]
        raise DataError(
            f"{name} cannot be read ({reason}); expected a pickled dictionary of NumPy arrays: fetch it again"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{name} holds a {type(found).__name__}; expected a pickled dictionary of NumPy arrays")
    return {_text(key): value for key, value in found.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def texts(values: Any) -> list[str]:
    """A list of texts, which older Pythons pickled as bytes."""
    return [_text(value) for value in values]
