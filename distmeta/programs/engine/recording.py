"""The operations of a function's call, recorded; as text, which another process can load quickly."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx import _pytree as fx_pytree
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten, treespec_dumps, treespec_loads

from distmeta.programs.engine.duplicates import drop_duplicates
from distmeta.programs.engine.views import shortened

_NAMES = {
    "torch": torch,
    "device": torch.device,
    "inf": math.inf,
    "nan": math.nan,
    "NoneType": type(None),
    "pytree": pytree,
    "fx_pytree": fx_pytree,
}
"""What a recording's code may name beside its arguments and constants."""


@dataclass(frozen=True)
class Recording:
    """One call of a function, from leaves to leaves.

    Attributes:
        code: Python source of a method ``forward`` that repeats the operations, with few of the views among them, see
            :func:`~distmeta.programs.engine.views.shortened`.
        strides: of the leaves.
        constants: tensors that it uses as attributes of ``self``.
        structure: of the results, as JSON.
        digest: of all operations.
        graph: of all operations, for a compiler; ``None`` in a recording that was loaded.
    """

    code: str
    strides: list[tuple[int, ...]]
    constants: dict[str, Tensor]
    structure: str
    digest: str
    graph: GraphModule | None = field(default=None, compare=False)

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: tuple[Any, ...], *, sparing: bool = False) -> Recording:
        """Record one call.

        Args:
            function: pure, of trees of tensors to a tree of tensors; its control flow depends on shapes alone.
            arguments: an example of what it will be called with.
            sparing: that it computes some things twice so that it need not keep them.
        """
        leaves, given = tree_flatten(arguments)
        structure: Any = None

        def on_leaves(*values: Any) -> list[Any]:
            nonlocal structure
            results, structure = tree_flatten(function(*tree_unflatten(list(values), given)))
            return results

        # What operations give is described by fake tensors; torch would make a mode of their own for each of them.
        with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
            graph = make_fx(on_leaves)(*leaves)
        graph.graph.eliminate_dead_code()
        if not sparing:
            drop_duplicates(graph.graph)
        graph.recompile()
        constants = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
        constants |= {name: value for name, value in vars(graph).items() if isinstance(value, Tensor)}
        strides = [leaf.stride() for leaf in leaves]
        digest = hashlib.sha256(graph.code.encode()).hexdigest()
        return cls(shortened(graph).code, strides, constants, treespec_dumps(structure), digest, graph)

    def dump(self) -> bytes:
        """As bytes.

        Raises:
            ValueError: it uses more than tensors and torch's operators.
        """
        assert self.graph is not None
        others = [name for name in self.graph.graph.python_code("self").globals if name not in _NAMES]
        inner = [node.target for node in self.graph.graph.nodes if node.op in ("call_module", "get_attr")]
        others += [str(target) for target in inner if target not in self.constants]
        if others:
            raise ValueError(f"the recording uses {', '.join(others)}")
        return pickle.dumps((self.code, self.strides, self.constants, self.structure, self.digest))

    @classmethod
    def load(cls, content: bytes) -> Recording:
        """From what :meth:`dump` gave."""
        return cls(*pickle.loads(content))

    def on_trees(self, run: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """As a function of trees like those that were recorded.

        Args:
            run: the same operations on leaves, compiled; otherwise they are repeated one by one.
        """
        on_leaves = run or self._replay()
        structure = treespec_loads(self.structure)

        def call(*given: Any) -> Any:
            return tree_unflatten(list(on_leaves(*tree_leaves(given))), structure)

        return call

    def _replay(self) -> Callable[..., Any]:
        """The operations one by one."""
        names: dict[str, Any] = dict(_NAMES)
        attributes: Any = SimpleNamespace(**self.constants)
        if self.graph is not None:
            names |= self.graph.graph.python_code("self").globals
            attributes = self.graph
        exec(compile(self.code, "<recording>", "exec"), names)
        forward = names["forward"]

        def replay(*leaves: Tensor) -> Any:
            if [leaf.stride() for leaf in leaves] != self.strides:
                leaves = tuple(map(_like_recorded, leaves, self.strides))
            return forward(attributes, *leaves)

        return replay


def _like_recorded(leaf: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same numbers, where a recording's views look for them."""
    return leaf if leaf.stride() == strides else leaf.new_empty_strided(leaf.shape, strides).copy_(leaf)
