"""Networks that cannot be trained as they are: each is refused before the first step, with one message."""

from __future__ import annotations

import random
from pathlib import Path

import battery_refused
import numpy as np
import pytest
import torch
from battery_reference import Case
from test_module_battery import TASKS, apart, configure, gradient

import distmeta
from distmeta.errors import ConfigError
from distmeta.programs.supervised import SupervisedProgram

WRITES = {
    "max_norm": r"embedding\.weight",
    "max_norm_not_reached": r"embedding\.weight",
    "FunctionalMaxNorm": "table",
    "copied": r"layer\.weight",
    "data": r"layer\.weight",
    "data_assigned": r"layer\.weight",
    "renormed": r"layer\.weight",
    "only_if_large": r"layer\.weight",
    "MovingTarget": r"target\.weight",
}
RANDOM = {
    "python_random": "random",
    "python_shuffle": "random",
    "numpy_random": "numpy",
    "numpy_generator": "generator of",
    "python_generator": "generator of",
    "torch_random": r"torch\.rand",
    "torch_generator": r"torch\.Generator",
    "clock": "the time",
    "RecurrentDropout": "dropout",
}
STATE = {
    "counter": "calls",
    "every_tenth_call": "calls",
    "after_many_calls": "calls",
    "Remembers": "seen",
    "RunningMean": "mean",
    "TensorCounter": "keeps in kept",
    "ArrayCounter": "keeps in kept",
    "TupleCounter": "keeps in kept",
    "TextCounter": "keeps in kept",
    "SetCounter": "keeps in kept",
    "SlotCounter": r"kept\.calls",
    "Iterates": "keeps in kept",
    "ClosureInList": "calls of tick",
    "CalledFunctionCounts": r"the global _CALLS\.calls",
    "UnregisteredCounter": r"kept\.calls",
    "SwitchesMode": "training",
}
PARAMETERS = {
    "local_class": r"do not follow 'body\.weight'.*closure",
    "GlobalRegistry": "do not follow 'gain'.*global",
    "FirstOfAll": "do not follow 'gain'.*global",
    "ClassFunction": "do not follow 'gain'.*class",
    "CachedMethod": "do not follow 'gain'.*cache",
    "HookedParameter": "'gain' has a hook",
    "ParameterWithAttribute": r"without gain\.factor",
    "HidesParameters": "named_parameters leaves out 'gain'",
    "SavesLess": "'gain' is not in its state_dict",
    "FreezesInForward": "requires_grad when the network is made",
    "StaleResult": "reads kept, which was computed",
    "DetachedOutputs": "no derivative",
}
BUILDING = {
    "OpenFile": "its kept is, or holds, an open file",
    "PythonGenerator": "its kept is, or holds, a Python generator",
    "copies_itself": "1 gives itself",
    "unseeded": "another module each time.*constant differs",
    "same_backbone": r"the same 1\.weight each time",
    "data_parallel": r"DataParallel.*\.module",
    "scripted": "TorchScript",
}
OTHER = {
    "sparse": "sparse=True",
    "bag": r"EmbeddingBag.*fomaml",
    "sparse_bag": "sparse=True|EmbeddingBag",
    "through_numpy_without_detach": "NumPy",
    "Complex": r"weight is torch\.complex64.*real",
    "bfloat16": r"1\.weight is torch\.bfloat16 and 3 more",
    "float64": r"1\.weight is torch\.float64",
    "mixed_types": r"4\.weight is torch\.float16|3\.weight is torch\.float16",
    "HardCoded": "float32",
    "Pair": "tuple",
    "once": "second derivative.*fomaml",
}
REFUSED = {**WRITES, **RANDOM, **STATE, **PARAMETERS, **BUILDING, **OTHER}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_first_step(name: str) -> None:
    config = configure(name, module="battery_refused")
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    with pytest.raises(ConfigError, match=REFUSED[name]) as caught:
        SupervisedProgram(config, torch.device("cpu")).probe()
    assert len(str(caught.value)) < 1000
    assert random.getstate() == generators[0]
    assert np.random.get_state()[1].tolist() == generators[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), generators[2])


def test_every_network_of_the_file_is_tried() -> None:
    own = {
        name
        for name, value in vars(battery_refused).items()
        if getattr(value, "__module__", None) == "battery_refused" and not name.startswith("_")
    }
    assert own - {"Between", "Embedded", "Constrained", "Counting", "Bag"} == set(REFUSED)


@pytest.mark.parametrize("name", ["once", "bag"])
def test_first_order_methods_need_no_second_derivative(name: str) -> None:
    config = configure(name, "algorithm.name=fomaml", module="battery_refused")
    program = SupervisedProgram(config, torch.device("cpu"))
    program.follow(program.probe())
    assert apart(gradient(program), Case(config).gradient(TASKS)) < 1e-4


def test_a_refused_run_leaves_no_directory(tmp_path: Path) -> None:
    config = configure("max_norm", module="battery_refused")
    with pytest.raises(ConfigError, match="embedding"):
        list(distmeta.train(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
