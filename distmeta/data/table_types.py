"""The types that columns of tables have."""

from __future__ import annotations

from typing import Any


def is_number(kind: Any) -> bool:
    """Whether a column's type is of numbers, truth values included."""
    import pyarrow as pa

    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(check(kind) for check in checks)


def is_numeral(text: str) -> bool:
    """Whether a text is a number.

    >>> is_numeral("1.5e3"), is_numeral("n/k")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_text(kind: Any) -> bool:
    """Whether a column's type is text, or a dictionary of it."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: Any) -> bool:
    """Whether a column's type is of lists."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
