"""Networks of the user's own: good factories, and one clear message for each bad one."""

import random
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from distmeta.core.records import TensorSpec
from distmeta.errors import ConfigError
from distmeta.functional import building, checks
from distmeta.functional.module import FunctionalModule
from distmeta.models import UserOptions, model_options

SOURCE = """
import random

import numpy as np
import torch
from torch import nn

number = 3

def make(outputs, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, width), nn.ReLU(), nn.Linear(width, outputs))

def shaped(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1], outputs))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 7))

def lazy(outputs):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.LazyLinear(outputs))

def anything(**settings):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, settings["size"]))

def needs(width):
    return nn.Linear(6, width)

def fails(outputs):
    raise RuntimeError("no weights today")

def gives_text():
    return "network"

def empty():
    return nn.Flatten()

def maps():
    return nn.Identity() if False else nn.Conv1d(2, 4, 1)

def drawn(outputs):
    layer = nn.Linear(6, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.random.randn(outputs, 6)))
        layer.bias.fill_(random.random())
    return nn.Sequential(nn.Flatten(), layer)

class Net(nn.Linear):
    def __init__(self, outputs):
        super().__init__(3, outputs)

    def forward(self, x):
        return super().forward(x.mean(1))

    @classmethod
    def small(cls, outputs):
        return cls(outputs)
"""
SHAPE = (2, 3)


def build(options, shape, outputs, seed=0):
    return building.build(options, TensorSpec(tuple(shape)), outputs, seed)


def check_outputs(module, options, shape, outputs):
    checks.check_outputs(module, options, torch.zeros(2, *shape), outputs)


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
    """The user's current directory, which Python does not search by itself."""
    (tmp_path / "user_nets.py").write_text(SOURCE)
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "__init__.py").write_text("")
    (tmp_path / "user_package" / "nets.py").write_text(SOURCE)
    (tmp_path / "user_broken.py").write_text("import no_such_dependency\n")
    (tmp_path / "user_syntax.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("user_")]:
        del sys.modules[name]


def options(factory, **settings):
    values = {"kind": f"module:{factory}", **settings}
    return model_options(values).model_validate(values)


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        ("user_nets.make", {}),
        ("user_nets:make", {"width": 9}),
        ("user_package.nets.make", {}),
        ("user_package.nets:shaped", {}),
        ("user_nets.lazy", {}),
        ("user_nets.anything", {"size": 5}),
        ("user_nets.Net", {}),
        ("user_nets:Net.small", {}),
    ],
)
def test_good_factories(folder, factory, settings):
    chosen = options(factory, **settings)
    path, before = list(sys.path), torch.get_rng_state()
    first, again = (build(chosen, SHAPE, 5, seed=1) for _ in range(2))
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), before)
    check_outputs(first, chosen, SHAPE, 5)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert FunctionalModule(first).parameters
    assert first.training


def test_initial_values_from_any_generator(folder):
    """They follow from the seed, and nobody else's numbers change."""
    states = np.random.get_state()[1].tolist(), random.getstate()
    first, again, other = (build(options("user_nets.drawn"), SHAPE, 5, seed) for seed in (1, 1, 2**40))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


def test_settings_reach_the_factory_and_survive_a_dump(folder):
    chosen = options("user_nets.make", width=9)
    assert build(chosen, SHAPE, 5, 0)[1].out_features == 9
    assert UserOptions.model_validate(chosen.model_dump(mode="json")) == chosen
    assert build(options("user_nets.make", outputs=8), SHAPE, None, 0)[3].out_features == 8


def test_lazy_layers_leave_running_statistics_alone(folder):
    module = build(options("user_nets.lazy"), SHAPE, 5, 0)
    assert int(module[2].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("factory", "settings", "messages"),
    [
        ("user_absent.make", {}, ["cannot import user_absent", "current directory"]),
        ("user_broken.make", {}, ["cannot import user_broken", "no_such_dependency"]),
        ("user_syntax.make", {}, ["cannot import user_syntax", "SyntaxError"]),
        ("user_nets.mak", {}, ["user_nets has no mak", "make, shaped"]),
        ("user_nets.number", {}, ["number should be a function", "int"]),
        (
            "user_nets.make",
            {"widht": 3},
            ["widht=3", "unexpected keyword argument 'widht'", "(outputs, width=4)"],
        ),
        ("user_nets.needs", {}, ["missing a required argument: 'width'"]),
        ("user_nets.fails", {}, ["raised RuntimeError: no weights today", "outputs=5"]),
        ("user_nets.gives_text", {}, ["should return an nn.Module, but returned str"]),
        ("user_nets.empty", {}, ["no trainable parameters"]),
    ],
)
def test_bad_factories(folder, factory, settings, messages):
    with pytest.raises(ConfigError) as error:
        build(options(factory, **settings), SHAPE, 5, 0)
    assert f"module:{factory}" in str(error.value)
    for message in ["model.kind", *messages]:
        assert message in str(error.value)


@pytest.mark.parametrize("kind", ["module:", "module:make", "module:a..b", "module:my-file.make", "module:a:b:c"])
def test_malformed_kinds(kind):
    with pytest.raises(ValidationError, match="expected module:PACKAGE"):
        model_options({"kind": kind}).model_validate({"kind": kind})


@pytest.mark.parametrize(
    ("factory", "shape", "outputs", "messages"),
    [
        ("user_nets.fixed", SHAPE, 5, ["outputs of shape (2, 7)", "5 ways", "parameter named outputs"]),
        ("user_nets.maps", SHAPE, 5, ["outputs of shape (2, 4, 3)", "(2, 5)"]),
        ("user_nets.maps", SHAPE, None, ["outputs of shape (2, 4, 3)", "(2, features)"]),
        ("user_nets.fixed", (2, 4), 5, ["cannot take examples of shape (2, 4)"]),
    ],
)
def test_outputs_that_do_not_fit(folder, factory, shape, outputs, messages):
    chosen = options(factory)
    module = build(chosen, shape, outputs, 0)
    with pytest.raises(ConfigError) as error:
        check_outputs(module, chosen, shape, outputs)
    for message in [f"module:{factory}", *messages]:
        assert message in str(error.value)


def test_checking_changes_nothing(folder):
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.get_rng_state()
    check_outputs(module, options("user_nets.fixed"), SHAPE, 5)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
