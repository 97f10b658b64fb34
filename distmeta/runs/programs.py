"""Programs of a trained learner that run without distmeta: by ``torch.export``, and in ONNX.

``programs/adapt.pt2`` takes a support set to an adapted model's tensors, ``programs/predict.pt2`` inputs and these
tensors to outputs, ``programs/adapt_predict.pt2`` does both. With a support set to adapt to, ``programs/model.pt2`` is
the adapted model's prediction, its tensors inside. The number of inputs to predict is free; the support set's shape is
fixed, and classes are 0, 1, ... as there. Inputs are what the network takes: of tables standardised features, of texts
tokens, as ``fitted.json`` says. Outputs are what ``AdaptedModel.predict`` gives, up to rounding.

Example::

    program = torch.export.load("artefact/programs/adapt_predict.pt2").module()
    logits = program(x_support, y_support, x)
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from distmeta.adaptations.base import Batch, Support
from distmeta.errors import ConfigError
from distmeta.runs.example_support import example_support
from distmeta.runs.inference import AdaptedModel, MetaLearner
from distmeta.runs.policies import PolicyLearner
from distmeta.storage.atomic import temporary
from distmeta.storage.cache import cache_for

PROGRAMS_FOLDER = "programs"
RECORDED_INPUTS = 3
"""Inputs of which a program is recorded; how many it takes is free."""

MOST_INPUTS = 2**20
"""Inputs that a program takes at most in one call."""


def of(
    learner: MetaLearner, model: AdaptedModel | None, support: tuple[Any, Any] | None, *, program: bool, onnx: bool
) -> dict[str, bytes]:
    """The programs' files by name.

    Raises:
        ConfigError: no program can be made of this learner, or ONNX's packages are missing.
    """
    if isinstance(learner, PolicyLearner):
        raise ConfigError("programs are for tasks with examples; a policy adapts by acting, which no program records")
    with learner.computing() as parts:
        made = _Programs(learner, parts, model, support)
        files: dict[str, bytes] = {}
        if program:
            files |= {f"{PROGRAMS_FOLDER}/{name}.pt2": _saved(made.exported(name)) for name in made.names}
        if onnx:
            name = "predict" if model is None else "model"
            files[f"{PROGRAMS_FOLDER}/{name}.onnx"] = _onnx(made, name)
        return files


class _Function(nn.Module):
    """A function of tensors, with the meta-parameters as its buffers."""

    def __init__(self, tensors: Sequence[Tensor], function: Callable[..., Any], recorded: nn.Module | None) -> None:
        super().__init__()
        self.count = len(tensors)
        for place, tensor in enumerate(tensors):
            self.register_buffer(f"tensor_{place}", tensor.detach().clone())
        self.recorded = recorded
        self.function = function

    def forward(self, *given: Tensor) -> Any:
        return self.function([getattr(self, f"tensor_{place}") for place in range(self.count)], *given)


class _Programs:
    """The programs of one learner."""

    def __init__(
        self, learner: MetaLearner, parts: Any, model: AdaptedModel | None, support: tuple[Any, Any] | None
    ) -> None:
        self._learner = learner
        self._adaptation = parts.adaptation
        self._meta_names = list(learner.meta)
        self._meta = [value.cpu() for value in learner.meta.values()]
        given = example_support(learner) if support is None else learner.support_of(*support)
        self._ways = given.ways
        self._support = {name: value.cpu() for name, value in given.data.items()}
        self._steps = learner.steps_of(None)
        self._inductive = parts.network.uses_batch_statistics
        self._recorded, self._structure, example = self._record_adaptation()
        self._solution = example if model is None else self._flat(*model.solution("support"))
        self._fixed = model is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the programs that there are."""
        return ("adapt", "predict", "adapt_predict", *(("model",) if self._fixed else ()))

    def exported(self, name: str) -> Any:
        """A program of ``torch.export``."""
        function, given, free = self.parts(name)
        queries = torch.export.Dim("inputs", min=1, max=MOST_INPUTS)
        shapes = (tuple({0: queries} if place in free else {} for place in range(len(given))),)
        with torch.no_grad():
            return torch.export.export(function, tuple(given), dynamic_shapes=shapes, strict=False)

    def parts(self, name: str) -> tuple[nn.Module, list[Tensor], range]:
        """A program's module, an example of its inputs, and the places of those whose number is free."""
        names = list(self._support)
        support = list(self._support.values())
        inputs = [self._first(value) for key, value in self._support.items() if key != "y"]
        count = len(inputs)

        def adapt(meta: list[Tensor], *given: Tensor) -> Any:
            return tuple(self._recorded(meta, *given))

        def predict(meta: list[Tensor], *given: Tensor) -> Tensor:
            return self._predict(meta, given[:count], list(given[count:]))

        def both(meta: list[Tensor], *given: Tensor) -> Tensor:
            return self._predict(meta, given[len(names) :], list(adapt(meta, *given[: len(names)])))

        def fixed(tensors: list[Tensor], *given: Tensor) -> Tensor:
            return self._predict(tensors[: len(self._meta)], given, tensors[len(self._meta) :])

        made: dict[str, tuple[Callable[..., Any], list[Tensor], range]] = {
            "adapt": (adapt, support, range(0)),
            "predict": (predict, [*inputs, *self._solution], range(count)),
            "adapt_predict": (both, [*support, *inputs], range(len(names), len(names) + count)),
            "model": (fixed, inputs, range(count)),
        }
        function, given, free = made[name]
        tensors = [*self._meta, *self._solution] if name == "model" else self._meta
        return _Function(tensors, function, self._recorded if "adapt" in name else None), given, free

    def _record_adaptation(self) -> tuple[Any, Any, list[Tensor]]:
        """The operations of adaptation: no program could take the derivatives in it."""
        names, structure = list(self._support), None

        def adapt(meta: list[Tensor], *given: Tensor) -> list[Tensor]:
            nonlocal structure
            data = dict(zip(names, given, strict=True))
            solution = self._adaptation.adapt(self._of(meta), Support(data, self._ways), self._steps)
            kept = {name: value.clone() for name, value in data.items() if name != "y"} if self._inductive else {}
            leaves, structure = tree_flatten((solution, kept))
            return list(leaves)

        recorded = make_fx(adapt)(self._meta, *self._support.values())
        recorded.graph.eliminate_dead_code()
        recorded.recompile()
        example = recorded(self._meta, *self._support.values())
        return recorded, structure, example

    def _predict(self, meta: list[Tensor], inputs: Sequence[Tensor], solution: list[Tensor]) -> Tensor:
        adapted, kept = tree_unflatten(solution, self._structure)
        batch = Batch(dict(zip([name for name in self._support if name != "y"], inputs, strict=True)))
        if self._inductive:
            outputs = self._adaptation.predict_inductive(self._of(meta), adapted, Support(kept, self._ways), batch)
        else:
            outputs = self._adaptation.predict(self._of(meta), adapted, batch)
        return self._learner.outputs(outputs)

    def _flat(self, adapted: Any, support: Support | None) -> list[Tensor]:
        kept = {} if support is None else dict(support.data)
        return [value.cpu() for value in tree_flatten((adapted, kept))[0]]

    def _of(self, meta: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._meta_names, meta, strict=True))

    @staticmethod
    def _first(values: Tensor) -> Tensor:
        """Some inputs, of the support set's."""
        return values[torch.arange(RECORDED_INPUTS) % len(values)].clone()


def _saved(program: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(made: _Programs, name: str) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError("ONNX needs extra packages: pip install distmeta[onnx]") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    function, given, free = made.parts(name)
    names = [f"input_{place}" if place in free else f"adapted_{place - len(free)}" for place in range(len(given))]
    queries = torch.export.Dim("inputs", min=1, max=MOST_INPUTS)
    shapes = (tuple({0: queries} if place in free else {} for place in range(len(given))),)
    with torch.no_grad():
        exported = torch.export.export(function, tuple(given), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(exported, input_names=names, output_names=["outputs"], dynamo=True, verbose=False)
    assert program is not None
    with temporary(cache_for(folder="onnx")) as folder:
        folder.mkdir()
        file = Path(folder, "program.onnx")
        program.save(str(file))
        return file.read_bytes()
