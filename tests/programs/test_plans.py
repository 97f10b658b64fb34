"""Every way to compute a program's meta-gradient: the same gradient, in float32 on networks with batch norm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distmeta.core.plan import Plan
from distmeta.core.requests import Request, Start
from distmeta.errors import ClusterError, ConfigError
from distmeta.functional.kernels import build
from distmeta.loading import load_config
from distmeta.programs.engine.settling import disagreement
from distmeta.programs.supervised import SupervisedProgram

CPU = torch.device("cpu")
CONV: dict[str, Any] = {
    "tasks": {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2},
    "model": {"kind": "conv4", "filters": 16},
    "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 2},
    "run": {"meta_batch": 6, "tasks_per_shard": 6, "device": "cpu"},
}
SINUSOID: dict[str, Any] = {
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp"},
    "algorithm": {"name": "maml", "inner_steps": 2},
    "run": {"meta_batch": 6, "tasks_per_shard": 6, "device": "cpu"},
}
ONE_STEP = "algorithm.inner_steps=1"
PLANS = {
    "general": Plan(),
    "general-graph": Plan(compile="graph"),
    "native": Plan(layers="native"),
    "native-mixed": Plan(layers="native", differentiation="mixed"),
    "native-graph": Plan(layers="native", compile="graph"),
    "native-graph-mixed-chunks": Plan(layers="native", compile="graph", differentiation="mixed", chunk=4),
    "native-inductor": Plan(layers="native", compile="inductor", chunk=3),
    "products": Plan(layers="products"),
    "products-graph-mixed": Plan(layers="products", compile="graph", differentiation="mixed"),
}


def write_net(file: Path, *forward: str) -> None:
    """A network of one linear layer ``head``, with a setting, that may ask whether it is traced."""
    lines = (
        "import torch",
        "from torch import nn",
        "from torch.fx.experimental.proxy_tensor import get_proxy_mode",
        "class Net(nn.Module):",
        "    def __init__(self, setting=None):",
        "        super().__init__()",
        "        self.head, self.setting = nn.Linear(1, 1), setting",
        "    def forward(self, x):",
        *(f"        {line}" for line in forward),
    )
    file.write_text("\n".join(lines))


def program_of(settings: dict[str, Any], *overrides: str) -> SupervisedProgram:
    return SupervisedProgram(load_config(settings, overrides), CPU)


@pytest.fixture(scope="module")
def conv() -> SupervisedProgram:
    return program_of(CONV)


@pytest.fixture(scope="module")
def short() -> SupervisedProgram:
    """With one inner step, as recording takes longer with each."""
    return program_of(CONV, ONE_STEP)


@pytest.fixture(scope="module")
def exact(conv: SupervisedProgram) -> torch.Tensor:
    return conv.reference_gradient(6)


def follows(name: str, program: SupervisedProgram, exact: torch.Tensor) -> None:
    if name.startswith("native") and build.unavailable():
        pytest.skip(str(build.unavailable()))
    program.follow(PLANS[name])
    gradient = program.sample_gradient(6)
    assert gradient.dtype == torch.float32
    assert 0 < disagreement(gradient, exact) < 1e-5


@pytest.mark.parametrize(
    "name", [name if PLANS[name].compile == "none" else pytest.param(name, marks=pytest.mark.slow) for name in PLANS]
)
def test_a_plan_gives_the_gradient_of_plain_autograd(name: str, conv: SupervisedProgram, exact: torch.Tensor) -> None:
    follows(name, conv, exact)


@pytest.mark.parametrize(
    "name", ["general-graph", "native-graph", pytest.param("native-graph-mixed-chunks", marks=pytest.mark.slow)]
)
def test_a_recorded_plan_gives_the_gradient_of_plain_autograd(name: str, short: SupervisedProgram) -> None:
    follows(name, short, short.reference_gradient(6))


@pytest.mark.parametrize("compile_", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_sinusoid(compile_: Any) -> None:
    if compile_ == "inductor" and build.unavailable():
        pytest.skip(str(build.unavailable()))
    program = program_of(SINUSOID, "model.hidden=[8]", *([ONE_STEP] if compile_ == "inductor" else []))
    program.follow(Plan(compile=compile_))
    assert disagreement(program.sample_gradient(6), program.reference_gradient(6)) < 1e-5


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "fomaml"},
        {"name": "reptile", "inner_batch": 4, "inner_steps": 2},
        {"name": "anil"},
        {"name": "meta_sgd"},
        {"name": "protonet"},
    ],
    ids=lambda row: row["name"],
)
def test_other_algorithms(algorithm: dict[str, Any]) -> None:
    program = program_of({**CONV, "algorithm": algorithm})
    reference = program.reference_gradient(4)
    program.follow(Plan(layers="products" if build.unavailable() else "native", compile="graph"))
    assert disagreement(program.sample_gradient(4), reference) < 1e-5


@pytest.mark.parametrize("layers", ["general", "native"])
def test_what_is_recorded_has_the_bits_of_what_is_not(layers: Any, short: SupervisedProgram) -> None:
    if layers == "native" and build.unavailable():
        pytest.skip(str(build.unavailable()))
    state = Start.of(0, short.initial_vector())
    results = []
    for compile_ in ("none", "graph"):
        short.follow(Plan(layers=layers, compile=compile_))
        gradient = short.answer(Request("gradient", state), "train", range(6))
        # Measurements are recorded when their shapes come again.
        measured = [short.evaluate(state, "test", range(3), details=True) for _ in range(4)][-1]
        results.append(
            (gradient.vector, measured.values["accuracy_inductive"], measured.values["loss"], measured.by_step)
        )
    for plain, recorded in zip(*results, strict=True):
        assert torch.equal(plain, recorded)


@pytest.mark.parametrize("compile_", ["none", "graph"])
def test_tasks_that_are_not_finite_are_named_in_chunks(compile_: Any) -> None:
    program = program_of(SINUSOID)
    program.follow(Plan(compile=compile_, chunk=2))
    vector = program.initial_vector()
    good = program.answer(Request("gradient", Start.of(0, vector)), "train", range(6))
    assert good.nonfinite == ()
    assert program.answer(
        Request("gradient", Start.of(0, vector * float("nan"))), "train", range(6)
    ).nonfinite == tuple(range(6))


@pytest.mark.parametrize("layers", ["general", "products"])
def test_bfloat16_is_close(layers: Any, conv: SupervisedProgram, exact: torch.Tensor) -> None:
    """Batch norm's small sets amplify rounding: a network with it is compared loosely, one without it closely."""
    conv.follow(Plan(layers=layers, precision="bf16"))
    assert 1e-4 < disagreement(conv.sample_gradient(6), exact) < 0.8
    plain = program_of(SINUSOID)
    plain.follow(Plan(precision="bf16"))
    assert 1e-4 < disagreement(plain.sample_gradient(6), plain.reference_gradient(6)) < 0.05


class TestSettling:
    """From what was decided to what works here."""

    def test_what_works_is_taken(self) -> None:
        plan = program_of(CONV, ONE_STEP, "run.steps=200").probe()
        assert plan.compile == "graph"
        assert plan.layers == ("general" if build.unavailable() else "native")

    @pytest.fixture
    def no_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "/nowhere/c++")

    @pytest.mark.usefixtures("no_compiler")
    def test_without_a_compiler_it_is_plain_and_says_so(self) -> None:
        plan = program_of(CONV, ONE_STEP, "algorithm.name=fomaml", "run.steps=10000").probe()
        assert (plan.layers, plan.compile) == ("general", "graph")
        assert "no C++ compiler is found (tried /nowhere/c++" in plan.notes[0]

    @pytest.mark.usefixtures("no_compiler")
    def test_a_short_run_without_such_layers_misses_none(self) -> None:
        assert program_of(SINUSOID, "run.steps=200").probe().notes == ()
        assert "no C++ compiler is found" in program_of(SINUSOID, "run.steps=100000").probe().notes[0]

    def test_nothing_is_compiled_that_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path))
        assert program_of(SINUSOID, "run.steps=200").probe().compile == "graph"
        assert not (tmp_path / "kernels").exists()

    @pytest.mark.usefixtures("no_compiler")
    def test_what_was_asked_for_is_not_replaced(self) -> None:
        with pytest.raises(ConfigError, match=r"engine\.\* asks for does not work here: .*no C\+\+ compiler"):
            program_of(CONV, "engine.layers=native").probe()

    @pytest.mark.usefixtures("no_compiler")
    def test_a_host_that_cannot_follow_says_so(self) -> None:
        with pytest.raises(ClusterError, match=r"this host cannot: no C\+\+ compiler .* engine\.layers=general"):
            program_of(CONV).follow(Plan(layers="native"))

    @pytest.mark.parametrize(("most", "compiled"), [(0.9, "graph"), (-9.0, "none")])
    def test_tasks_that_rounding_has_turned_refuse_no_plan(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, compiled: str
    ) -> None:
        """Under a tracer the outputs are 1 % larger for tasks of large inputs, as a ReLU may turn, or for all tasks."""
        write_net(
            tmp_path / "user_turned.py",
            "turned = torch.where(x.mean() > self.setting, 1.01, 1.0)",
            "return self.head(x) * (turned if get_proxy_mode() else 1)",
        )
        monkeypatch.chdir(tmp_path)
        model = {"kind": "module:user_turned.Net", "setting": most}
        config = load_config({**SINUSOID, "model": model}, ["run.steps=1000"])
        program = SupervisedProgram(config, CPU)
        plan = program.probe()
        assert plan.compile == compiled
        assert len(plan.notes) == (compiled == "none")
        program.follow(replace(plan, compile="none"))
        plain = [program.sample_gradient(6), *(program.repeated_gradient(task, 6) for task in range(9))]
        program.follow(replace(plan, compile="graph"))
        found = [program.sample_gradient(6), *(program.repeated_gradient(task, 6) for task in range(9))]
        apart = [disagreement(a, b) > 1e-3 for a, b in zip(found, plain, strict=True)]
        assert apart[0]
        assert 0 < sum(apart[1:]) < 5 or compiled == "none"

    def test_tasks_that_last_bits_turn_refuse_no_plan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Some tasks' outputs are half as large again, by a weight's last bit (another under a tracer), or there."""
        write_net(
            tmp_path / "user_bits.py",
            "traced = bool(get_proxy_mode())",
            "weight = self.head.weight.detach().float() * (1 + 2**-23 * traced)",
            "turned = weight.view(torch.int32).sum() % 3 == 0 if self.setting else traced",
            "return self.head(x) * torch.where((x.mean() > 0.9) & turned, 1.5, 1.0)",
        )
        monkeypatch.chdir(tmp_path)
        for by_bits, compiled in ((True, "graph"), (False, "none")):
            model = {"kind": "module:user_bits.Net", "setting": by_bits}
            plan = SupervisedProgram(load_config({**SINUSOID, "model": model}, ["run.steps=1000"]), CPU).probe()
            assert plan.compile == compiled
            assert len(plan.notes) == (not by_bits)

    def test_what_cannot_be_recorded_is_computed_plainly(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The model gives other outputs whenever it is called under a tracer: no plan but the plain one is right."""
        write_net(
            tmp_path / "user_traced.py",
            "return self.head(x) * (2 if get_proxy_mode() else 1)",
        )
        monkeypatch.chdir(tmp_path)
        config = load_config({**SINUSOID, "model": {"kind": "module:user_traced.Net"}}, ["run.steps=1000"])
        plan = SupervisedProgram(config, CPU).probe()
        assert plan.compile == "none"
        assert "not engine.compile=graph: its meta-gradient differs from the plain way's" in plan.notes[0]
        asked = load_config(config.model_dump(), ["engine.compile=graph"])
        program = SupervisedProgram(asked, CPU)
        with pytest.raises(ConfigError, match="differs from the plain way's"):
            program.probe()
