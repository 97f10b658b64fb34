"""Adaptation by another loss than the query's: exact meta-gradients against finite differences and plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from numerics_cases import TASKS, WAYS, draw_tasks, network
from torch import Tensor

from distmeta.adaptations import ADAPTATIONS, Batch, Support, Task
from distmeta.algorithms import algorithm_options
from distmeta.core.layout import MODEL
from distmeta.errors import ConfigError
from distmeta.estimators import ESTIMATORS
from distmeta.functional.module import FunctionalModule
from distmeta.loading import load_config
from distmeta.objectives import open_objective
from distmeta.objectives.options import HuberOptions
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import run_tasks

SINUSOID: dict[str, Any] = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
STEPS, RATE = 2, 0.1


class Adapted:
    """A small network that adapts by Huber's loss, and is judged by the squared error."""

    def __init__(self, differentiation: str) -> None:
        inner = HuberOptions(name="huber", delta=0.5)
        values = {"name": "maml", "inner_lr": RATE, "inner_steps": STEPS, "inner_objective": inner}
        options: Any = algorithm_options(values).model_validate(values)
        self.tree = draw_tasks((4,), "squared_error")
        self.module = network({"kind": "mlp", "hidden": [5], "activation": "tanh"}, (4,), WAYS)
        functional = FunctionalModule(self.module, self.tree["support"]["x"][0])
        self.adaptation: Any = ADAPTATIONS["gradient_descent"](options, functional, open_objective("squared_error"))
        self.estimator: Any = ESTIMATORS["exact"](options, self.adaptation)
        self.estimator.follow(differentiation)
        self.meta = {MODEL + name: value for name, value in functional.parameters.items()}

    def gradients(self) -> dict[str, Tensor]:
        def one(meta: Any, tree: Any) -> Any:
            task = Task(Support(tree["support"]), Batch(tree["query"]))
            return self.estimator.gradient(meta, task, STEPS)[0]

        found: dict[str, Tensor] = run_tasks(one, self.meta, self.tree, TASKS, running="mapped")
        return found

    def query_losses(self, meta: dict[str, Tensor]) -> Tensor:
        """(T,) by plain autograd: the inner loss is torch's own Huber loss."""
        losses = []
        for t in range(TASKS):
            params = {name.removeprefix(MODEL): value.clone().requires_grad_() for name, value in meta.items()}
            support, query = ({n: v[t] for n, v in self.tree[part].items()} for part in ("support", "query"))
            for _ in range(STEPS):
                outputs = torch.func.functional_call(self.module, params, (support["x"],))
                loss = F.huber_loss(outputs, support["y"], delta=0.5)
                gradients = torch.autograd.grad(loss, list(params.values()))
                params = {
                    name: (value - RATE * g).detach().requires_grad_()
                    for (name, value), g in zip(params.items(), gradients, strict=True)
                }
            outputs = torch.func.functional_call(self.module, params, (query["x"],))
            losses.append(F.mse_loss(outputs, query["y"]).detach())
        return torch.stack(losses)


@pytest.mark.parametrize("differentiation", ["reverse", "mixed"])
def test_meta_gradients_are_those_of_finite_differences(differentiation: str) -> None:
    case = Adapted(differentiation)
    generator = torch.Generator().manual_seed(0)
    found, small = case.gradients(), 1e-6
    for _ in range(3):
        shapes = {name: value.shape for name, value in case.meta.items()}
        along = {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
        ahead, behind = (
            case.query_losses({name: value + sign * small * along[name] for name, value in case.meta.items()})
            for sign in (1, -1)
        )
        slopes = sum((found[name] * along[name]).flatten(1).sum(1) for name in found)
        torch.testing.assert_close(slopes, (ahead - behind) / (2 * small), rtol=1e-6, atol=1e-8)


def test_it_is_a_setting_of_the_inner_loop() -> None:
    config = load_config(SINUSOID, ["algorithm.inner_objective={name: huber, delta: 0.5}"])
    parts = Assembly(config)
    outputs, data = torch.full((1, 1), 2.0), {"y": torch.zeros(1, 1)}
    assert float(parts.adaptation.inner_objective.loss(outputs, data)) == pytest.approx(0.875)
    assert float(parts.objective.loss(outputs, data)) == 4
    setting: Any = getattr(config.algorithm, "inner_objective")  # noqa: B009
    assert setting == HuberOptions(name="huber", delta=0.5)


REFUSED = {
    "other targets": (["algorithm.inner_objective=cross_entropy"], "is about class indices, and tasks.objective"),
    "unknown": (["algorithm.inner_objective=hubr"], "algorithm.inner_objective: expected one of"),
    "unknown setting": (["algorithm.inner_objective={name: huber, delt: 1}"], "algorithm.inner_objective.delt"),
    "no inner loop": (["algorithm={name: protonet, inner_objective: huber}"], "inner_objective: there is no such"),
    "no outer loss": (["algorithm={name: reptile, inner_objective: huber}"], "no use under the displacement"),
}


@pytest.mark.parametrize(("overrides", "said"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(SINUSOID, overrides)


def test_both_take_the_same_outputs() -> None:
    with pytest.raises(ConfigError, match="inner_objective takes 2 outputs of the network"):
        Assembly(load_config(SINUSOID, ["algorithm.inner_objective=gaussian"]))
