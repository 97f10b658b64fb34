"""A service that computes every request by itself gives what the learner gives, to the bit."""

from __future__ import annotations

import pytest
import requests
import torch
from job_helpers import free_ports

from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.inference import MetaLearner
from distmeta.serving.settings import ServeSettings
from distmeta.serving.starting import serving

pytest.importorskip("starlette")


@pytest.mark.usefixtures("ray_cluster")
def test_answers_are_the_learners_own() -> None:
    values = {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}}
    config = load_config(values)
    learner = MetaLearner(config, Assembly(config).initial_meta())
    x = torch.linspace(-5, 5, 10).unsqueeze(1)
    with serving(learner, ServeSettings(None, batch=1), port=free_ports(1)[0]) as address:
        for steps in (1, 3):
            support = {"inputs": x.tolist(), "targets": x.sin().tolist(), "steps": steps}
            adapted = requests.post(f"{address}/adapt", json=support, timeout=60).json()
            asked = {"inputs": x.tolist(), "model": adapted["model"]}
            found = requests.post(f"{address}/predict", json=asked, timeout=60).json()
            expected = learner.adapt(x, x.sin(), steps).predict(x)
            assert found["predictions"] == expected.squeeze(1).tolist()
        missing = requests.get(f"{address}/nothing", timeout=60)
        assert missing.status_code == 404
        assert "/docs" in missing.json()["error"]
        assert requests.get(f"{address}/adapt", timeout=60).status_code == 405
