"""What people give for an example, by the run's tasks."""

from __future__ import annotations

from typing import Literal

from distmeta.config.sections import TaskOptions
from distmeta.core.records import InputSpec, TensorSpec
from distmeta.tasks.options import TableOptions

InputKind = Literal["columns", "texts", "images", "inputs"]


def input_kind(options: TaskOptions, inputs: InputSpec) -> InputKind:
    """Columns of a table, texts, files of images, or the network's inputs themselves.

    Args:
        options: of the tasks.
        inputs: what the network gets of an example.
    """
    if isinstance(options, TableOptions):
        return "columns"
    if hasattr(options, "tokenizer"):
        return "texts"
    return "images" if isinstance(inputs, TensorSpec) and len(inputs.shape) == 3 else "inputs"
