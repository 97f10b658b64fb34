"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("distmeta")
except PackageNotFoundError:  # run from its sources, not installed
    __version__ = "unknown"
