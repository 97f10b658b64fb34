"""Tasks that a user gives as files: read as the run's own were, joined, and told by name."""

from __future__ import annotations

from distmeta.runs.given.joining import GivenTasks, open_tasks

__all__ = ["GivenTasks", "open_tasks"]
