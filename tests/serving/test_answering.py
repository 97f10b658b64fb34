"""What a service says of a model's outputs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.inference import MetaLearner
from distmeta.serving.answering import Answers, told
from distmeta.serving.bodies import BadRequest
from distmeta.serving.settings import ServeSettings


def learner(kind: str) -> MetaLearner:
    model = {"sinusoid": {"kind": "mlp"}, "glyphs": {"kind": "conv4", "filters": 2}}[kind]
    config = load_config({"tasks": {"kind": kind}, "model": model, "algorithm": {"name": "maml"}})
    return MetaLearner(config, Assembly(config).initial_meta())


def test_values_and_classes() -> None:
    assert told(learner("sinusoid"), torch.tensor([[0.5], [2.0]]), None) == {"predictions": [0.5, 2.0]}
    said = told(learner("glyphs"), torch.tensor([[0.0, math.log(3.0), -math.inf]]), ["a", "b"])
    assert said["predictions"] == ["b"]
    assert said["probabilities"] == [pytest.approx([0.25, 0.75])]


def test_a_class_may_have_no_probability_at_all() -> None:
    said = told(learner("glyphs"), torch.tensor([[0.0, -math.inf]]), ["a", "b"])
    assert said["probabilities"] == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("kind", "classes", "value"),
    [
        *(("sinusoid", None, value) for value in (math.nan, math.inf, -math.inf)),
        *(("glyphs", ["a", "b"], value) for value in (math.nan, math.inf)),
    ],
)
def test_outputs_that_are_not_finite_are_the_requests_matter(
    kind: str, classes: list[str] | None, value: float
) -> None:
    """JSON has no such numbers, and what made them came with the request."""
    outputs: Tensor = torch.zeros(3, 2 if classes else 1)
    json.dumps(told(learner(kind), outputs, classes), allow_nan=False)
    outputs[1, 0] = value
    with pytest.raises(BadRequest, match=r"row 1 is not finite \(1 of 3 rows\)") as caught:
        told(learner(kind), outputs, classes)
    assert caught.value.status == 422


@pytest.mark.parametrize("batch", [1, 8])
def test_answers_are_the_learners_own(batch: int) -> None:
    """One by one to the bit; together up to rounding."""
    own = learner("sinusoid")
    answers = Answers(own, ServeSettings(None, batch=batch), None, lambda _: None)
    x = torch.linspace(-5, 5, 10).unsqueeze(1)
    for steps in (1, 3):
        (model,) = answers._adapt(steps, [own.support_of(x, x.sin())])
        (found,) = answers._predict(None, [(model, own.inputs(x, "inputs"))])
        expected = own.adapt(x, x.sin(), steps).predict(x)
        torch.testing.assert_close(found, expected, rtol=0 if batch == 1 else 1e-5, atol=0 if batch == 1 else 1e-6)
