"""A trained learner in use: by several threads, in little memory, pickled; and what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.inference import AdaptedModel, MetaLearner

THREADS = 8
ADAPTATIONS = 12

GLYPHS = {"kind": "glyphs", "ways": 3, "shots": 2, "queries": 2}
SINUSOID = {"kind": "sinusoid"}
MLP = {"kind": "mlp", "hidden": [16]}
CONV = {"kind": "conv4", "filters": 4}
ATTENTIVE = {"kind": "module:learner_models.Attentive"}
MAML = {"name": "maml", "inner_lr": 0.1}


def untrained(tasks: Mapping[str, Any], model: Mapping[str, Any], algorithm: Mapping[str, Any]) -> MetaLearner:
    config = load_config({"tasks": tasks, "model": model, "algorithm": algorithm})
    return MetaLearner(config, Assembly(config).initial_meta())


def images(count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        support, query = (torch.rand(6, 1, 28, 28, generator=generator) for _ in range(2))
        yield support, torch.arange(3).repeat(2), query


# Threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_core_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def curves(count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        yield tuple(torch.rand(5, 1, generator=generator) for _ in range(3))  # type: ignore[misc]


def adapted_outputs(learner: MetaLearner, task: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    support, labels, query = task
    model = learner.adapt(support, labels, 2 if learner.parts.adaptation.iterative else None)
    return [model.predict(query, "support"), model.predict(query, "query")]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.usefixtures("one_core_each")
@pytest.mark.parametrize(
    ("model", "algorithm"),
    [
        pytest.param(MLP, MAML, id="mlp", marks=pytest.mark.slow),
        pytest.param({"kind": "module:learner_models.Normalised"}, MAML, id="batch-norm", marks=pytest.mark.slow),
        pytest.param(ATTENTIVE, {**MAML, "inner_optimizer": "adam"}, id="dropout-and-attention"),
    ],
)
@pytest.mark.parametrize("adaptations", [ADAPTATIONS, pytest.param(40, marks=pytest.mark.slow)])
def test_threads_get_what_each_would_get_alone(
    model: Mapping[str, Any], algorithm: Mapping[str, Any], adaptations: int
) -> None:
    same_as_alone(untrained(SINUSOID, model, algorithm), list(curves(THREADS * adaptations)))


@pytest.mark.usefixtures("one_core_each")
@pytest.mark.parametrize("algorithm", [MAML, {"name": "protonet"}], ids=["maml", "protonet"])
def test_threads_get_what_each_would_get_alone_of_images(algorithm: Mapping[str, Any]) -> None:
    same_as_alone(untrained(GLYPHS, CONV, algorithm), list(images(3 * THREADS)))


def same_as_alone(learner: MetaLearner, tasks: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        together = list(threads.map(lambda task: adapted_outputs(learner, task), tasks))
    alone = [adapted_outputs(learner, task) for task in tasks]
    assert all(map(equal, together, alone))
    assert not equal(alone[0], alone[1])


@pytest.mark.usefixtures("one_core_each")
def test_threads_predict_with_one_adapted_model() -> None:
    learner = untrained(GLYPHS, CONV, MAML)
    tasks = list(images(24))
    model = learner.adapt(*tasks[0][:2])
    queries = [query for _, _, query in tasks]
    with ThreadPoolExecutor(THREADS) as threads:
        together = list(threads.map(model.predict, queries))
    assert equal(together, [model.predict(query) for query in queries])


def test_threads_build_learners() -> None:
    """The same weights for all, though torch has one stream of random numbers for all threads."""
    with ThreadPoolExecutor(THREADS) as threads:
        learners = list(threads.map(lambda _: untrained(GLYPHS, ATTENTIVE, MAML), range(8)))
    assert all(equal(list(each.meta.values()), list(learners[0].meta.values())) for each in learners)


def test_threads_that_end_leave_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = untrained(GLYPHS, MLP, MAML)
    task = next(images(1))
    copies: list[weakref.ref[Assembly]] = []
    replica = Assembly.replica

    def counted(self: Assembly) -> Assembly:
        copies.append(weakref.ref(made := replica(self)))
        return made

    monkeypatch.setattr(Assembly, "replica", counted)
    for _ in range(20):
        threads = [threading.Thread(target=adapted_outputs, args=(learner, task)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    gc.collect()
    kept = [found for copy in copies if (found := copy()) is not None]
    assert 1 <= len(kept) <= 4
    shared = {value.data_ptr() for value in learner.parts.network.tensors()}
    assert {value.data_ptr() for each in kept for value in each.network.tensors()} == shared


def test_nothing_of_the_process_is_changed() -> None:
    def settings() -> list[Any]:
        cuda = torch.backends.cuda
        kernels = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
        own = (torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled())
        return [kernels, own, torch.get_default_dtype(), torch.get_rng_state().tolist(), list(sys.path)]

    before = settings()
    learner = untrained(GLYPHS, ATTENTIVE, MAML)
    for task in images(2):
        adapted_outputs(learner, task)
    assert settings() == before


def test_within_inference_mode() -> None:
    """What a server may have on for all that it does."""
    learner = untrained(SINUSOID, MLP, MAML)
    x = torch.linspace(-1, 1, 5).reshape(5, 1)
    expected = learner.adapt(x, x).predict(x)
    with torch.inference_mode():
        y = torch.linspace(-1, 1, 5).reshape(5, 1)
        assert torch.equal(learner.adapt(y, y).predict(y), expected)


# Memory -----------------------------------------------------------------------------------------------------------

PEAK = """
import gc, sys, torch
from distmeta.loading import load_config
from distmeta.runs.inference import MetaLearner
from distmeta.programs.engine.assembly import Assembly

torch.set_num_threads(1)
config = load_config(
    {"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp", "hidden": [2000, 2000]}, "algorithm": {"name": "maml"}}
)
small = load_config({**config.model_dump(), "model": {"kind": "mlp"}})
x = torch.linspace(-1, 1, 5).reshape(5, 1)
peak = lambda: next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
MetaLearner(small, Assembly(small).initial_meta()).adapt(x, x)
before = peak()
for steps in (1, 50):  # the peak of both is never below that of the first
    gc.collect()
    MetaLearner(config, Assembly(config).initial_meta()).adapt(x, x, steps)
    print(peak() - before)
"""


def test_memory_of_many_steps_is_that_of_one() -> None:
    """Megabytes of a process that adapts 4 million parameters (16 MB); 50 steps kept would be 800 MB.

    A copy or three more may wait for the garbage collector in either.
    """
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, check=True, text=True)
    one, many = map(float, done.stdout.split())
    assert 50 < one < 250
    assert many <= one + 4 * 16


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("rates", ["none", "per_tensor", "per_element"])
def test_in_place_steps_have_the_bits_of_the_others(optimizer: str, rates: str) -> None:
    algorithm = {**MAML, "inner_optimizer": optimizer, "learned_rates": rates}
    learner = untrained(GLYPHS, CONV, algorithm)
    support, labels, query = next(images(1))
    task = learner._inputs.support(support, labels)
    adaptation = learner.parts.adaptation
    with torch.no_grad():
        expected = adaptation.adapt(learner.meta, task, 3)
    model = learner.adapt(support, labels, 3)
    assert expected.keys() == model._adapted.keys()
    assert all(torch.equal(value, model._adapted[name]) for name, value in expected.items())
    assert model.predict(query).shape == (6, 3)


# Nothing is changed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "module:learner_models.InPlace"])
def test_tensors_of_the_caller_and_parameters_stay_as_they_are(kind: str) -> None:
    learner = untrained(SINUSOID, {"kind": kind}, MAML)
    x, q = torch.linspace(-1, 1, 5).reshape(5, 1), torch.linspace(2, 3, 5).reshape(5, 1)
    given = [x, q, *learner.meta.values(), *learner.parts.network.tensors()]
    before = [value.clone() for value in given]
    first = learner.adapt(x, x, 3)
    outputs = first.predict(q)
    assert torch.equal(first.predict(q), outputs)
    assert equal(given, before)
    assert torch.equal(learner.adapt(x, x, 3).predict(q), outputs)


def test_what_the_caller_does_later_does_not_matter() -> None:
    learner = untrained(GLYPHS, CONV, MAML)
    support, labels, query = next(images(1))
    model = learner.adapt(support, labels)
    expected = model.predict(query)
    support.zero_()
    assert torch.equal(model.predict(query), expected)


def test_no_steps_are_the_meta_parameters_themselves() -> None:
    learner = untrained(SINUSOID, MLP, MAML)
    x = torch.linspace(-1, 1, 5).reshape(5, 1)
    one, other = learner.adapt(x, x, 0), learner.adapt(x + 1, x, 0)
    assert torch.equal(one.predict(x), other.predict(x))


# Pickled ----------------------------------------------------------------------------------------------------------

UNPICKLE = """
import pickle, sys, torch
model, query = pickle.load(open(sys.argv[1], "rb"))
torch.save([model.predict(query, "support"), model.predict(query, "query")], sys.argv[2])
"""


@pytest.mark.parametrize(
    ("model", "algorithm"),
    [
        pytest.param(CONV, MAML, id="batch-norm"),
        pytest.param(CONV, {"name": "protonet"}, id="prototypes", marks=pytest.mark.slow),
        pytest.param(ATTENTIVE, {"name": "meta_sgd"}, id="a-users-module"),
    ],
)
def test_an_adapted_model_in_another_process(
    model: Mapping[str, Any], algorithm: Mapping[str, Any], tmp_path: Path
) -> None:
    learner = untrained(GLYPHS, model, algorithm)
    support, labels, query = next(images(1))
    adapted = learner.adapt(support, labels)
    (tmp_path / "model").write_bytes(pickle.dumps((adapted, query)))
    command = [sys.executable, "-c", UNPICKLE, str(tmp_path / "model"), str(tmp_path / "outputs")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1] / "helpers")
    expected = [adapted.predict(query, "support"), adapted.predict(query, "query")]
    assert equal(torch.load(tmp_path / "outputs"), expected)


def test_what_a_pickle_holds() -> None:
    """The parameters twice, as learned and as adapted, and nothing of a task where nothing of it is needed."""
    learner = untrained(SINUSOID, {"kind": "mlp", "hidden": [64, 64]}, MAML)
    many = torch.zeros(100_000, 1)
    adapted = learner.adapt(many[:2], many[:2])
    size = 4 * sum(value.numel() for value in learner.meta.values())
    assert 2 * size < len(pickle.dumps(adapted)) < 2 * size + 10_000
    assert len(pickle.dumps([adapted, learner.adapt(many, many)])) < 3 * size + 15_000
    assert isinstance(pickle.loads(pickle.dumps(adapted)), AdaptedModel)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda learner: pickle.loads(pickle.dumps(learner))])
def test_copies_of_a_learner(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With frozen weights, which a network that is built anew would not have."""
    learner = untrained(SINUSOID, {"kind": "module:learner_models.Frozen"}, MAML)
    x = torch.linspace(-1, 1, 5).reshape(5, 1)
    expected = learner.adapt(x, x).predict(x)
    monkeypatch.setattr("learner_models.SEED", 1)
    other = how(learner)
    for value in learner.meta.values():
        value.zero_()
    assert torch.equal(other.adapt(x, x).predict(x), expected)


# Refused ----------------------------------------------------------------------------------------------------------

X, Y = torch.zeros(3, 1, 28, 28), torch.arange(3)
with warnings.catch_warnings():  # torch calls some of these kinds new, others old
    warnings.simplefilter("ignore")
    CSR = X[0, 0].to_sparse_csr()
    NESTED, NESTED_LABELS = torch.nested.nested_tensor([X[0], X[1]]), torch.nested.nested_tensor([Y, Y, Y])
    QUANTIZED = torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)
    QUANTIZED_LABELS = torch.quantize_per_tensor(Y.float(), 1.0, 0, torch.qint32)
NAN = X.clone()
NAN[1, 0, 3, 3] = torch.nan


@pytest.fixture(scope="module")
def classifier() -> MetaLearner:
    return untrained(GLYPHS, CONV, MAML)


TENSORS = [torch.tensor(True), torch.tensor([2]), torch.tensor(2.0), torch.tensor(2, device="meta")]


@pytest.mark.parametrize(
    "steps", [-1, True, 1.0, "2", 2.5, np.float32(1), [1], np.array(True), np.array([2]), *TENSORS]
)
def test_wrong_numbers_of_steps(steps: Any, classifier: MetaLearner) -> None:
    with pytest.raises(ConfigError, match=r"steps = .*whole number of inner steps, 0 or more"):
        classifier.adapt(X, Y, steps)


def test_numbers_of_steps_of_other_types(classifier: MetaLearner) -> None:
    for steps in (np.int64(2), torch.tensor(2)):
        assert classifier.adapt(X, Y, steps).predict(X).shape == (3, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, 1, -1])
def test_steps_where_there_are_none(steps: int) -> None:
    with pytest.raises(ConfigError, match="protonet adapts in closed form and takes no inner steps"):
        untrained(GLYPHS, CONV, {"name": "protonet"}).adapt(X, Y, steps)


@pytest.mark.parametrize("model", [MLP, CONV])
@pytest.mark.parametrize("statistics", ["batch", None, True, ["support"]])
def test_unknown_statistics(statistics: Any, model: Mapping[str, Any]) -> None:
    adapted = untrained(GLYPHS, model, MAML).adapt(X, Y)
    with pytest.raises(ConfigError, match=r"statistics = .*expected one of support, query"):
        adapted.predict(X, statistics)


WRONG_INPUTS = [
    pytest.param((X * 255).to(torch.uint8), r"torch.uint8.*x.float\(\) / 255", id="uint8"),
    pytest.param(X.long(), "torch.int64", id="integers"),
    pytest.param(X > 0, "torch.bool", id="booleans"),
    pytest.param(X + 0j, "complex", id="complex"),
    pytest.param(X.to_sparse(), "sparse", id="sparse"),
    pytest.param(CSR, "sparse_csr", id="csr"),
    pytest.param(X.to_mkldnn(), "_mkldnn", id="mkldnn"),
    pytest.param(X.to("meta"), "has no values", id="meta"),
    pytest.param(NESTED, "nested", id="nested"),
    pytest.param(torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged), "nested", id="jagged"),
    pytest.param(QUANTIZED, "quantized", id="quantized"),
    pytest.param(torch.zeros(X.shape, dtype=torch.bits8), "torch.bits8", id="bits"),
    pytest.param(torch.zeros(X.shape, dtype=torch.float4_e2m1fn_x2), "torch.float4_e2m1fn_x2", id="float4"),
    pytest.param(NAN, "1 of 3 examples.*the first is example 1", id="nan"),
    pytest.param(X.double() + 1e300, "not finite in float32", id="beyond-float32"),
    pytest.param(X[:0], "0 inputs", id="empty"),
    pytest.param(X[0, 0], "shape", id="one-image"),
    pytest.param(torch.tensor(1.0), "shape", id="a-number"),
    pytest.param([[1.0], [1.0, 2.0]], "cannot be read as a tensor", id="ragged"),
    pytest.param("images", "cannot be read as a tensor", id="text"),
    pytest.param(None, "cannot be read as a tensor", id="nothing"),
]


@pytest.mark.parametrize(("x", "words"), WRONG_INPUTS)
def test_wrong_inputs(x: Any, words: str, classifier: MetaLearner) -> None:
    with pytest.raises(ConfigError, match=f"x_support .*{words}"):
        classifier.adapt(x, Y)
    with pytest.raises(ConfigError, match=f"x .*{words}"):
        classifier.adapt(X, Y).predict(x)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        pytest.param([0, 1, 3], "names class 3", id="beyond-the-ways"),
        pytest.param([0, 1, 10**15], "names class 1000000000000000", id="far-beyond"),
        pytest.param([0, -1, 2], "down to -1", id="negative"),
        pytest.param([True, False, True], "torch.bool", id="booleans"),
        pytest.param([0.0, 1.0, 2.0], "torch.float32", id="floats"),
        pytest.param([[0], [1], [2]], r"shape \(3, 1\)", id="a-column"),
        pytest.param(2, "3 inputs and 0 targets", id="a-number"),
        pytest.param(["a", "b", "c"], "cannot be read", id="names"),
        pytest.param([0, 1, 2**70], "cannot be read", id="beyond-any-type"),
        pytest.param(np.array([0, 2**63, 1], np.uint64), "names class 9223372036854775808", id="beyond-int64"),
        pytest.param(torch.zeros(3, dtype=torch.bits8), "torch.bits8", id="bits"),
    ],
)
def test_wrong_labels(y: Any, words: str, classifier: MetaLearner) -> None:
    with pytest.raises(ConfigError, match=words):
        classifier.adapt(X, y)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        pytest.param(Y.to("meta"), "has no values", id="meta"),
        pytest.param(NESTED_LABELS, "nested", id="nested"),
        pytest.param(QUANTIZED_LABELS, "quantized", id="quantized"),
        pytest.param(Y.to_sparse(), "sparse", id="sparse"),
    ],
)
def test_targets_without_plain_numbers(y: torch.Tensor, words: str, classifier: MetaLearner) -> None:
    for learner, x in ((classifier, X), (untrained(SINUSOID, MLP, MAML), torch.zeros(3, 1))):
        with pytest.raises(ConfigError, match=f"y_support is .*{words}.*give a dense tensor of real numbers"):
            learner.adapt(x, y)


@pytest.mark.parametrize("y", [[0, 1, 3], [1, 1, 2], [0, 1, 10**15]])
def test_classes_without_examples(y: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"y_support has no example of class [02]; number the classes 0, 1"):
        untrained(GLYPHS, CONV, {"name": "protonet"}).adapt(X, y)  # type: ignore[arg-type]


def test_unsigned_labels(classifier: MetaLearner) -> None:
    labels = np.arange(3)
    expected = classifier.adapt(X, labels).predict(X)  # type: ignore[arg-type]
    for kind in (np.uint8, np.uint16, np.int32):
        assert torch.equal(classifier.adapt(X, labels.astype(kind)).predict(X), expected)  # type: ignore[arg-type]


def test_targets_that_are_not_finite() -> None:
    with pytest.raises(ConfigError, match="y_support holds numbers that are not finite"):
        untrained(SINUSOID, MLP, MAML).adapt(torch.zeros(2, 1), torch.tensor([[0.0], [torch.inf]]))


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta2", 1.5])
def test_wrong_devices(device: Any, tmp_path: Path) -> None:
    config = load_config({"tasks": SINUSOID, "model": MLP, "algorithm": MAML})
    with pytest.raises(ConfigError, match="device = "):
        MetaLearner(config, Assembly(config).initial_meta(), device)
