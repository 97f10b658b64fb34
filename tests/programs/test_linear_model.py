r"""A linear model with squared error, where everything has a closed form.

With S support rows X (S, d) and targets y, the objective is L(w) = 1/S |X w - y|^2, so its gradient is

    g_s(w) = 2/S X^T (X w - y) = H w - c,     H = 2/S X^T X,  c = 2/S X^T y,

and a step w <- w - a g_s(w) maps the distance to the optimum w* = H^-1 c linearly: w_K = w* + (I - a H)^K (w - w*).
With g_q(w) = 2/Q Xq^T (Xq w - yq) of the query set:

- exact:           d L_q(w_K) / dw = ((I - a H)^K)^T g_q(w_K)
- first order:     g_q(w_K)
- displacement:    w - w_K = (I - (I - a H)^K) (w - w*)
- Meta-SGD, K = 1: d L_q(w - a * g_s(w)) / da = -g_s(w) * g_q(w_1), an element each; its sum for one rate a tensor
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numerics_cases import Case
from torch import Tensor, nn

D, S, Q = 3, 7, 5
RATE = 1 / 16  # learned rates start as float32, where this is exact


class Problem:
    """One random task and starting point, and the formulas above."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x, self.y, self.xq, self.yq, self.w = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((S, D), (S, 1), (Q, D), (Q, 1), (D, 1))
        )
        self.h = 2 / S * self.x.T @ self.x
        self.best = torch.linalg.solve(self.h, 2 / S * self.x.T @ self.y)

    def power(self, steps: int) -> Tensor:
        """(I - a H)^K."""
        return torch.linalg.matrix_power(torch.eye(D, dtype=torch.float64) - RATE * self.h, steps)

    def after(self, steps: int) -> Tensor:
        """w_K."""
        return self.best + self.power(steps) @ (self.w - self.best)

    def query_gradient(self, w: Tensor) -> Tensor:
        """g_q(w)."""
        return 2 / Q * self.xq.T @ (self.xq @ w - self.yq)

    def gradient(self, **settings: Any) -> dict[str, Tensor]:
        """What distmeta computes, each as a column."""
        module = nn.Linear(D, 1, bias=False).double()
        with torch.no_grad():
            module.weight.copy_(self.w.T)
        tasks = {"support": {"x": self.x[None], "y": self.y[None]}, "query": {"x": self.xq[None], "y": self.yq[None]}}
        way = settings.pop("differentiation", "reverse")
        algorithm = {"name": "maml", "inner_lr": RATE, **settings}
        case = Case(algorithm, module, "squared_error", tasks, differentiation=way)
        if settings.get("estimator") == "displacement":
            # Alone of all, it would merge support and query.
            case.tree["support"] = tasks["support"]
        return {name: value.reshape(-1, 1) for name, value in case.mapped[0].items()}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("differentiation", ["reverse", "mixed"])
def test_exact(steps: int, differentiation: str) -> None:
    problem = Problem()
    gradient = problem.gradient(inner_steps=steps, differentiation=differentiation)
    close(gradient["model/weight"], problem.power(steps).T @ problem.query_gradient(problem.after(steps)))


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_first_order(steps: int) -> None:
    problem = Problem()
    gradient = problem.gradient(inner_steps=steps, estimator="first_order")
    close(gradient["model/weight"], problem.query_gradient(problem.after(steps)))


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_displacement(steps: int) -> None:
    problem = Problem()
    gradient = problem.gradient(inner_steps=steps, estimator="displacement")
    moved = (torch.eye(D, dtype=torch.float64) - problem.power(steps)) @ (problem.w - problem.best)
    close(gradient["model/weight"], moved)


@pytest.mark.parametrize("way", [{}, {"differentiation": "mixed"}, {"estimator": "first_order"}], ids=str)
@pytest.mark.parametrize("rates", ["per_element", "per_tensor"])
def test_learned_rates_after_one_step(way: dict[str, str], rates: str) -> None:
    """No second derivative is in it, so first order gives the same."""
    problem = Problem()
    gradient = problem.gradient(inner_steps=1, learned_rates=rates, **way)
    support_gradient = problem.h @ (problem.w - problem.best)
    expected = -support_gradient * problem.query_gradient(problem.after(1))
    close(gradient["rates/weight"], expected if rates == "per_element" else expected.sum().view(1, 1))
