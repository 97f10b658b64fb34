"""Artefacts: the same learner without its run, programs without distmeta, and nothing of a stranger's that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from local_hub import NAME, hub
from torch import Tensor

import distmeta
from distmeta.core.hashing import sha256
from distmeta.errors import ConfigError, StorageError, TrustError
from distmeta.loading import load_config
from distmeta.runs.artefact import ARTEFACT, DamagedArtefact
from distmeta.runs.inference import MetaLearner
from distmeta.storage.manifests import sealed

GLYPHS = {"kind": "glyphs", "ways": 3, "shots": 2, "queries": 2}
CONV = {"kind": "conv4", "filters": 4}
SHORT = {"steps": 2, "meta_batch": 2, "tasks_per_shard": 2, "checkpoint_every": 1}
TESTED = {"tasks": 4, "validation_tasks": 4}


def trained(folder: Path, **settings: Any) -> Path:
    config = load_config({"run": SHORT, "evaluation": TESTED, "cluster": {"workers": 0}, "name": "short", **settings})
    for _ in distmeta.train(config, str(folder / "run")):
        pass
    return folder / "run"


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    algorithm = {"name": "maml_plus_plus", "inner_lr": 0.1, "inner_steps": 2, "multi_step": 1}
    return trained(tmp_path_factory.mktemp("glyphs"), tasks=GLYPHS, model=CONV, algorithm=algorithm)


def task() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    support, query = (torch.rand(6, 1, 28, 28, generator=generator) for _ in range(2))
    return support, torch.arange(3).repeat(2), query


def predicted(learner: MetaLearner) -> Tensor:
    support, labels, query = task()
    return learner.adapt(support, labels).predict(query)


def test_an_artefact_predicts_as_its_run(glyphs: Path, tmp_path: Path) -> None:
    exported = distmeta.export(glyphs, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert exported.files.keys() >= {"params.safetensors", "meta.safetensors", "artefact.json", "README.md"}
    again = distmeta.load(tmp_path / "moved")
    assert torch.equal(predicted(distmeta.load(glyphs)), predicted(again))
    distmeta.export(tmp_path / "moved", tmp_path / "second")
    assert torch.equal(predicted(again), predicted(distmeta.load(tmp_path / "second")))


def test_it_can_be_tested(glyphs: Path, tmp_path: Path) -> None:
    distmeta.export(glyphs, tmp_path / "out")
    measured = distmeta.evaluate(tmp_path / "out", ["cluster.workers=0"])
    result = json.loads((glyphs / "result.json").read_text())
    assert measured["accuracy"]["mean"] == result["meta_test"]["accuracy"]["mean"]


def test_its_card_tells_figures_and_settings(glyphs: Path, tmp_path: Path) -> None:
    distmeta.export(glyphs, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    result = json.loads((glyphs / "result.json").read_text())["meta_test"]
    metrics = {each["type"]: each["value"] for each in metadata["model-index"][0]["results"][0]["metrics"]}
    assert metrics["accuracy"] == result["accuracy"]["mean"]
    assert "maml_plus_plus" in metadata["tags"]
    assert "3 ways, 2 shots" in body
    assert "inner_steps: 2" in body


def test_no_place_of_this_machine_stands_in_it(tmp_path: Path) -> None:
    table = tmp_path / "secret place" / "table.csv"
    table.parent.mkdir()
    rows = [f"{t},{x},{x * t}" for t in range(12) for x in range(8)]
    table.write_text("user,x,y\n" + "\n".join(rows))
    tasks = {"kind": "table", "path": str(table), "task": "user", "features": ["x"], "target": "y", "shots": 2}
    run = trained(
        tmp_path,
        tasks={**tasks, "queries": 2},
        model={"kind": "mlp", "hidden": [8]},
        algorithm={"name": "maml", "inner_lr": 0.01},
    )
    distmeta.export(run, tmp_path / "out", program=True)
    learner, artefact = distmeta.load(run), distmeta.load(tmp_path / "out")
    given: tuple[Any, Any, Any] = {"x": [1.0, 2.0]}, [[3.0], [6.0]], {"x": [4.0]}
    expected = learner.adapt(given[0], given[1]).predict(given[2])
    shutil.rmtree(table.parent)
    assert torch.equal(artefact.adapt(given[0], given[1]).predict(given[2]), expected)
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"secret place" not in content
            assert str(tmp_path).encode() not in content


ALGORITHMS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "maml": (GLYPHS, CONV, {"name": "maml", "inner_lr": 0.1, "inner_steps": 2}),
    "protonet": (GLYPHS, CONV, {"name": "protonet"}),
    "r2d2": (GLYPHS, CONV, {"name": "r2d2"}),
    "metaoptnet": (GLYPHS, CONV, {"name": "metaoptnet"}),
    "matching_net": (GLYPHS, CONV, {"name": "matching_net"}),
    "anil": (GLYPHS, CONV, {"name": "anil", "inner_lr": 0.1}),
    "meta_curvature": (GLYPHS, CONV, {"name": "meta_curvature", "inner_lr": 0.1}),
    "sinusoid": ({"kind": "sinusoid"}, {"kind": "mlp", "hidden": [16]}, {"name": "maml", "inner_lr": 0.01}),
}

ALONE = """
import sys
class Refused:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "distmeta":
            raise ImportError("distmeta is not here")
sys.meta_path.insert(0, Refused())
import numpy, torch
folder, names = sys.argv[1], sys.argv[2].split(",")
given = {name: torch.from_numpy(value) for name, value in numpy.load(folder + "/given.npz").items()}
load = lambda name: torch.export.load(f"{folder}/out/programs/{name}.pt2").module()
found = {"both": load("adapt_predict")(given["x"], given["y"], given["query"])}
found["parts"] = load("predict")(given["query"], *load("adapt")(given["x"], given["y"]))
found["one"] = load("adapt_predict")(given["x"], given["y"], given["query"][:1])
if "model" in names:
    found["model"] = load("model")(given["query"])
numpy.savez(folder + "/found.npz", **{name: value.detach().numpy() for name, value in found.items()})
"""


QUICK = ("maml",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS]
)
def test_programs_run_without_distmeta(name: str, tmp_path: Path) -> None:
    tasks, model, algorithm = ALGORITHMS[name]
    run = trained(tmp_path, tasks=tasks, model=model, algorithm=algorithm)
    if name == "sinusoid":
        draw = [torch.rand(count, 1, generator=torch.Generator().manual_seed(count)) for count in (10, 10, 7)]
        x, y, query = draw[0], draw[1] + 1, draw[2]
    else:
        x, y, query = task()
    distmeta.export(run, tmp_path / "out", program=True, support=(x, y))
    np.savez(tmp_path / "given.npz", x=x.numpy(), y=y.numpy(), query=query.numpy())
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path), "model"], check=True, cwd=tmp_path, env=bare())
    found = np.load(tmp_path / "found.npz")
    expected = distmeta.load(run).adapt(x, y).predict(query).numpy()
    for part in ("both", "parts", "model"):
        np.testing.assert_allclose(found[part], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["one"], expected[:1], rtol=1e-5, atol=1e-5)


def bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
def test_an_adapted_model_in_onnx(glyphs: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    support, labels, query = task()
    distmeta.export(glyphs, tmp_path / "out", onnx=True, support=(support, labels))
    session = runtime.InferenceSession(str(tmp_path / "out" / "programs" / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: query[:4].numpy()})
    expected = distmeta.load(glyphs).adapt(support, labels).predict(query[:4])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


NETWORK = """
from torch import nn
from beside import WIDTH

def make():
    return nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
"""


def test_an_artefact_brings_its_code_which_runs_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "exported_network.py").write_text(NETWORK)
    (home / "beside.py").write_text("WIDTH = 6\n")
    script = (
        "import distmeta\n"
        "from distmeta.loading import load_config\n"
        "config = load_config({'tasks': {'kind': 'sinusoid'}, 'model': {'kind': 'module:exported_network.make'},\n"
        "    'algorithm': {'name': 'maml', 'inner_lr': 0.01}, 'run': {'steps': 1, 'meta_batch': 2},\n"
        "    'evaluation': {'tasks': 2}, 'cluster': {'workers': 0}})\n"
        "list(distmeta.train(config, 'run'))\n"
        "distmeta.export('run', 'out')\n"
        "import torch\n"
        "x = torch.linspace(-1, 1, 5)[:, None]\n"
        "print(distmeta.load('run').adapt(x, x).predict(x).tolist())\n"
    )
    made = subprocess.run([sys.executable, "-c", script], cwd=home, check=True, capture_output=True, text=True)
    foreign = tmp_path / "foreign"
    shutil.move(home / "out", foreign)
    shutil.rmtree(home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(TrustError, match="asks to run code, which was refused: model"):
        distmeta.load(foreign)
    assert "exported_network" not in sys.modules
    learner = distmeta.load(foreign, trust_code=True)
    x = torch.linspace(-1, 1, 5)[:, None]
    assert learner.adapt(x, x).predict(x).tolist() == json.loads(made.stdout.splitlines()[-1])


def test_what_is_damaged_is_named(glyphs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    distmeta.export(glyphs, out)
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    for name in ("params.safetensors", "meta.safetensors"):
        (out / name).write_bytes(whole[name][:-1] + b"x")
        with pytest.raises(DamagedArtefact, match=f"{name} is damaged: its content does not match"):
            distmeta.load(out)
        (out / name).unlink()
        with pytest.raises(DamagedArtefact, match=f"{name} is damaged: it is missing"):
            distmeta.load(out)
        (out / name).write_bytes(whole[name])
    (out / ARTEFACT).write_bytes(whole[ARTEFACT].replace(b'"step": 2', b'"step": 3'))
    with pytest.raises(DamagedArtefact, match="does not match its hash"):
        distmeta.load(out)
    wrong: list[dict[str, Any]] = [{"step": -1}, {"code": ["../../x.py"]}, {"files": {}}, {"in_module": ["model/none"]}]
    for values in wrong:
        changed = {**json.loads(whole[ARTEFACT]), **values}
        changed.pop("sha256")
        (out / ARTEFACT).write_text(json.dumps(sealed(changed)))
        with pytest.raises(DamagedArtefact, match="is damaged"):
            distmeta.load(out)
    newer = {**json.loads(whole[ARTEFACT]), "schema": 9}
    newer.pop("sha256")
    (out / ARTEFACT).write_text(json.dumps(sealed(newer)))
    with pytest.raises(StorageError, match=r"newer format .*schema 9"):
        distmeta.load(out)
    assert sha256(whole["params.safetensors"])


def test_only_an_artefact_is_replaced(glyphs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("ten years")
    with pytest.raises(StorageError, match="holds something else than an artefact"):
        distmeta.export(glyphs, out)
    (out / "thesis.txt").unlink()
    distmeta.export(glyphs, out)
    distmeta.export(glyphs, out)
    with pytest.raises(ConfigError, match="ask for program or onnx"):
        distmeta.export(glyphs, out, support=task()[:2])


LOAD = """
import sys, torch, distmeta
try:
    learner = distmeta.load(sys.argv[1])
except distmeta.errors.DistmetaError as error:
    sys.exit(f"{type(error).__name__}: {error}")
support, labels, query = torch.load(sys.argv[2])
torch.save(learner.adapt(support, labels).predict(query), sys.argv[3])
"""


@pytest.mark.slow  # a process for each address: the hub's is read when the library is imported
def test_an_artefact_of_the_hub_is_fetched_checked_and_the_same(glyphs: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    distmeta.export(glyphs, tmp_path / "out")
    torch.save(task(), tmp_path / "task.pt")

    def load(address: str, name: str, cache: str = "cache") -> str:
        """Load in a process of its own, which reads the hub's address as it starts; gives its complaint."""
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / cache)}
        command = [sys.executable, "-c", LOAD, name, *(str(tmp_path / file) for file in ("task.pt", "outputs.pt"))]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr

    with hub(tmp_path / "out") as address:
        for name in (f"hf://{NAME}", f"hf://{NAME}@v1"):
            (tmp_path / "outputs.pt").unlink(missing_ok=True)
            load(address, name)
            assert torch.equal(torch.load(tmp_path / "outputs.pt"), predicted(distmeta.load(glyphs)))
        assert f"StorageError: cannot fetch hf://{NAME}@v2" in load(address, f"hf://{NAME}@v2")
        assert "StorageError: cannot fetch hf://nobody/nothing" in load(address, "hf://nobody/nothing")
        meta = tmp_path / "out" / "meta.safetensors"
        meta.write_bytes(meta.read_bytes()[:-4] + b"\0\0\0\1")
        assert "DamagedArtefact" in load(address, f"hf://{NAME}", cache="another")


def test_addresses_of_the_hub() -> None:
    with pytest.raises(ConfigError, match="expected hf://owner/name"):
        distmeta.load("hf://only-a-name")


@pytest.mark.parametrize("name", ["weird", "", "checkpoints/step-x", "checkpoints/step-\u00b2"])
def test_a_result_that_names_no_checkpoint_is_refused(name: str, glyphs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(glyphs, run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "checkpoint": name}))
    with pytest.raises(StorageError, match=r"result\.json is damaged: checkpoint: expected a name such as") as caught:
        distmeta.export(run, tmp_path / "out")
    assert repr(name) in str(caught.value)
    assert not (tmp_path / "out").exists()
