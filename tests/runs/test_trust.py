"""Loading runs nothing that nobody allowed: checkpoints, run directories, sweeps and their settings are data."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from integration_helpers import configure, drain, invoke, parameters, train, write_config
from trust_helpers import HELPER, NET, OWN, OWN_SMALL, SMALL, forge, manifest, new_process, write_own

import distmeta
from distmeta.errors import ChangedError, ConfigError, StorageError, TrustError
from distmeta.jobs.packing import Submission, pack, prepare
from distmeta.runs import checkpoint
from distmeta.runs.evaluate import load_snapshot
from distmeta.storage.files import Storage
from distmeta.sweeps.sweep import load_sweep


@pytest.fixture(name="work")
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's working directory, with code of the user's own."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_own(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with new_process():
        yield folder


@pytest.fixture(name="plain", scope="module")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network that is distmeta's own."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(folder, SMALL)
    return folder


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the user's network."""
    folder = tmp_path_factory.mktemp("own")
    write_own(folder)
    with pytest.MonkeyPatch.context() as patch, new_process():
        patch.chdir(folder)
        train(folder / "run", OWN_SMALL)
    return folder / "run"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ways_in(run: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """Everything that loads: a run, a checkpoint, its settings, settings of a sweep that build on it."""
    config = run / "config.yaml"
    space = {"outer.lr": {"loguniform": [1e-4, 1e-2]}}
    sweep = folder / "sweep.yaml"
    sweep.write_text(yaml.safe_dump({"base": str(config), "space": space, "settings": {"run.validate_every": 2}}))
    return {
        "load": lambda: distmeta.load(run),
        "load a checkpoint": lambda: distmeta.load(max((run / "checkpoints").iterdir())),
        "evaluate": lambda: distmeta.evaluate(run),
        "settings": lambda: distmeta.load_config(config),
        "a sweep's base": lambda: load_sweep(sweep),
    }


@pytest.mark.parametrize(
    ("kind", "arguments", "recorded"),
    [
        ("module:os.system", {"command": "touch CANARY"}, ()),
        ("module:os:mkdir", {"path": "CANARY"}, ("os.py",)),
        ("module:own_net:os.system", {"command": "touch CANARY"}, ("own_net.py", "own_helper.py")),
        ("module:own_net:partial_system", {"command": "touch CANARY"}, ("own_net.py", "own_helper.py")),
        ("module:canary_elsewhere.make", {}, ("canary_elsewhere.py",)),
        ("module:own_canary.make", {}, ("own_net.py", "own_helper.py")),
        ("module:own_canary.make", {}, ()),
    ],
)
def test_a_canary(
    kind: str,
    arguments: dict[str, str],
    recorded: tuple[str, ...],
    work: Path,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code of Python's, of other folders, and of the working directory that the run has not recorded."""
    canary = tmp_path / "canary"
    source = f"open({str(canary)!r}, 'w').close()\ndef make():\n    pass\n"
    (work / "own_canary.py").write_text(source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "canary_elsewhere.py").write_text(source)
    monkeypatch.syspath_prepend(elsewhere)
    texts = {"own_net.py": NET, "own_helper.py": HELPER, "canary_elsewhere.py": source, "os.py": os.__doc__ or ""}
    model = {"kind": kind, **{key: text.replace("CANARY", str(canary)) for key, text in arguments.items()}}
    run = shutil.copytree(plain, tmp_path / "run")
    forge(run, model, {name: digest(texts[name]) for name in recorded})
    (run / "config.yaml").write_text(yaml.safe_dump({**SMALL, "model": model}))

    for way in ways_in(run, tmp_path).values():
        with pytest.raises(TrustError, match=r"asks to run code, which was refused.*--trust-code") as refused:
            way()
        assert kind in str(refused.value)
    for command in (["evaluate", run], ["train", run / "config.yaml"], ["plan", run / "config.yaml"]):
        invoke(*command).refused(str(run), kind, "--trust-code", "trust_code=True")
    with pytest.raises(ConfigError, match=r"model.kind: was"):  # resumed with settings of one's own
        train(run, SMALL, resume=True)
    assert not canary.exists()

    with pytest.raises((ConfigError, TypeError)):  # allowed it runs, and gives no network
        distmeta.load(run, trust_code=True)
    assert canary.exists()
    monkeypatch.undo()
    sys.modules.pop("canary_elsewhere", None)


def test_state_is_not_unpickled(plain: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {canary}",)

    run = shutil.copytree(plain, tmp_path / "run")
    newest = max((run / "checkpoints").iterdir())
    for data in (torch_bytes({"step": Payload()}), pickle.dumps(Payload())):
        (newest / "state.pt").write_bytes(data)
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest["files"]["state.pt"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        del manifest["sha256"]
        seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        (newest / "manifest.json").write_text(json.dumps({**manifest, "sha256": seal}))
        with pytest.raises(StorageError, match=r"state.pt is damaged: it holds something else than tensors"):
            distmeta.load(newest, trust_code=True)
    assert not canary.exists()


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_own_run_just_works(work: Path, own: Path, tmp_path: Path) -> None:
    measured = json.loads((own / "result.json").read_text())["meta_test"]
    assert distmeta.evaluate(own) == measured
    assert distmeta.load(own).config.model.kind == OWN
    done = invoke("evaluate", own, "--json").succeeded()
    assert json.loads(done.out) == measured
    config = distmeta.load_config(own / "config.yaml", ["run.steps=6"])
    drain(distmeta.train(config, own.parent / "again"))


def change_net(work: Path) -> None:
    (work / "own_net.py").write_text(NET.replace("Tanh", "ReLU"))


def change_helper(work: Path) -> None:
    (work / "own_helper.py").write_text("width = 3  # as before\n")


def shadow_by_a_package(work: Path) -> None:
    (work / "own_net").mkdir()
    (work / "own_net" / "__init__.py").write_text(NET)


def shadow_a_helper(work: Path) -> None:
    (work / "own_helper").mkdir()
    (work / "own_helper" / "__init__.py").write_text(HELPER)


@pytest.mark.parametrize("change", [change_net, change_helper, shadow_by_a_package, shadow_a_helper])
def test_own_code_that_has_changed(change: Callable[[Path], None], work: Path, own: Path) -> None:
    change(work)
    with pytest.raises(
        TrustError, match=r"own_(net|helper)\S* (has changed since|is not among the files that) the run"
    ):
        distmeta.load(own)
    assert "own_net" not in sys.modules
    assert distmeta.load(own, trust_code=True)
    assert distmeta.load(own, [f"model.kind={OWN}"])


def test_no_record_no_trust(work: Path, own: Path, tmp_path: Path) -> None:
    """Checkpoints of older versions."""
    run = forge(shutil.copytree(own, tmp_path / "run"), {"kind": OWN}, {})
    with pytest.raises(TrustError, match="no record of its code"):
        distmeta.evaluate(run)
    assert distmeta.evaluate(run, [f"model.kind={OWN}"])


def test_code_that_came_with_the_run(work: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's run directory that holds code, and a user who has gone into it."""
    run = shutil.copytree(own, tmp_path / "run")
    write_own(run)
    monkeypatch.chdir(run)
    with pytest.raises(TrustError, match="may have come with it"):
        distmeta.load(run)
    with pytest.raises(TrustError, match="may have come with it"):
        distmeta.load_config("config.yaml")


@pytest.mark.parametrize("place", ["found/run", "found/more/run"])
def test_code_that_came_beside_the_run(place: str, work: Path, own: Path, tmp_path: Path) -> None:
    """Somebody else's archive, unpacked in the working directory, whose record is right."""
    canary = tmp_path / "canary"
    (work / "found" / "more").mkdir(parents=True)
    source = f"open({str(canary)!r}, 'w').close()\n{NET}"
    for folder in ("found", "found/more"):
        (work / folder / "own_evil.py").write_text(source.replace("own_helper", "math").replace("width", "pi"))
        code = {f"{folder}/own_evil.py": digest((work / folder / "own_evil.py").read_text())}
        run = work / place
        shutil.rmtree(run, ignore_errors=True)
        forge(shutil.copytree(own, run), {"kind": f"module:{folder.replace('/', '.')}.own_evil.make"}, code)
        for location in (run, max((run / "checkpoints").iterdir())):
            with pytest.raises(TrustError, match=r"may have come with it, in .*found"):
                distmeta.evaluate(location)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["module:x; touch PWNED #.y", "module:own_net:make()", "module:", "module:a b.c"])
def test_a_kind_that_is_no_name(kind: str, work: Path, own: Path, tmp_path: Path) -> None:
    """What is advised can be typed into a shell."""
    run = forge(shutil.copytree(own, tmp_path / "run"), {"kind": kind}, {"own_net.py": digest(NET)})
    with pytest.raises(TrustError, match="no name of Python code") as caught:
        distmeta.evaluate(run)
    advised = str(caught.value).partition("for example the override ")[2]
    assert shlex.split(advised, comments=True) == [f"model.kind={kind}"]


@pytest.mark.parametrize(
    ("name", "beside"),
    [("best.yaml", None), ("schedule.yaml", None), ("config.yaml", "checkpoints"), ("sweep.yaml", "trials")],
)
def test_settings_of_a_folder_that_lacks_parts(name: str, beside: str | None, work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    if beside:
        (folder / beside).mkdir()
    (folder / name).write_text(yaml.safe_dump({**SMALL, "model": {"kind": "module:os.system", "command": "true"}}))
    with pytest.raises(TrustError, match=r"module:os\.system"):
        distmeta.load_config(folder / name)


def with_settings(run: Path, **sections: Any) -> Path:
    storage = Storage.at(run)
    for step in checkpoint.steps(storage):
        found = checkpoint.load(storage.child("checkpoints", f"step-{step:08d}"))
        config = {**found.config, **{name: {**found.config[name], **values} for name, values in sections.items()}}
        checkpoint.save(storage, replace(found, config=config))
    return run


def test_a_cluster_that_the_checkpoint_names(plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody's token is sent there, unless the user names it too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        run = with_settings(shutil.copytree(plain, tmp_path / "run"), cluster={"address": address, "workers": 1})
        with caplog.at_level("WARNING", "distmeta"):
            assert load_snapshot(run)[1].cluster.address is None
        assert f"cluster.address={address} uses it again" in caplog.text
        assert load_snapshot(run, trust_code=True)[1].cluster.address == address
        assert load_snapshot(run, ["cluster.address=10.0.0.1:1"])[1].cluster.address == "10.0.0.1:1"
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_host_for_data_that_the_checkpoint_names(plain: Path, tmp_path: Path) -> None:
    root = "s3://bucket/data?endpoint_override=127.0.0.1:1&scheme=http"
    tasks = {"kind": "omniglot", "root": root, "ways": 2}
    config = configure({**SMALL, "tasks": tasks, "model": {"kind": "mlp", "hidden": [3]}})
    run = with_settings(shutil.copytree(plain, tmp_path / "run"), tasks=config.model_dump(mode="json")["tasks"])
    with pytest.raises(TrustError, match=r"your credentials would be sent to the host.*tasks\.root=") as caught:
        distmeta.evaluate(run)
    advised = str(caught.value).partition("with the override ")[2].partition(", or")[0]
    assert shlex.split(advised) == [f"tasks.root={root}"]


def test_code_anywhere_in_what_was_unpacked(
    work: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that was unpacked in the working directory: nothing in its folder is the user's, whatever it names."""
    canary = tmp_path / "canary"
    source = f"open({str(canary)!r}, 'w').close()\ndef make():\n    pass\n"
    places = ("found/evil.py", "found/nets/evil.py", "found/run/evil.py", "found/a/evil.py")
    for place in places:
        (work / place).parent.mkdir(parents=True, exist_ok=True)
        (work / place).write_text(source)
    (work / "linked").symlink_to(work / "found")
    (work / "outside").symlink_to(tmp_path / "outside")
    shutil.copytree(work / "found", tmp_path / "outside")
    beside = [*(place.removesuffix(".py").replace("/", ".") for place in places), "linked.evil"]
    runs = {work / "found" / "run": beside, work / "found" / "a" / "b" / "run": beside, work / "linked" / "c": beside}
    for run, modules in {**runs, tmp_path / "outside" / "run": ["outside.evil"]}.items():
        shutil.copytree(own, run, dirs_exist_ok=True)
        for module in modules:
            forge(run, {"kind": f"module:{module}.make"}, {f"{module.replace('.', '/')}.py": digest(source)})
            for place in (run, max((run / "checkpoints").iterdir())):
                with new_process(), pytest.raises(TrustError, match="come with it"):
                    distmeta.load(place)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(work / "found")
        forge(work / "found" / "run", {"kind": "module:evil.make"}, {"evil.py": digest(source)})
        with pytest.raises(TrustError, match="come with it"):
            distmeta.load("found/run")
    shutil.copytree(own, work / "runs" / "mine")
    assert distmeta.load("runs/mine")
    assert not canary.exists()


def test_what_is_imported_is_what_was_compared(
    work: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another module of that name comes first on Python's path, or is loaded already."""
    canary = tmp_path / "canary"
    other = tmp_path / "other"
    other.mkdir()
    write_own(other)
    (other / "own_net.py").write_text(f"open({str(canary)!r}, 'w').close()\n{NET}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(other), str(work), *sys.path])
        with pytest.raises(
            TrustError, match=r"own_net is no file of the working directory.*\(Python finds it in .*other\)"
        ):
            distmeta.load(own)
    assert not canary.exists()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(other), *sys.path])
        __import__("own_net")
    with pytest.raises(
        TrustError, match=r"own_net is no file of the working directory.*\(Python finds it in .*other\)"
    ):
        distmeta.load(own)


def test_bytecode_is_not_believed(work: Path, own: Path, tmp_path: Path) -> None:
    """A cached bytecode file that looks as if it were of this source."""
    import importlib.util
    import py_compile

    canary, source = tmp_path / "canary", work / "own_helper.py"
    text = f"{HELPER}open({str(canary)!r}, 'w').close()\n"
    source.write_text(text)
    cached = py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert cached == importlib.util.cache_from_source(str(source))
    source.write_text(HELPER)
    distmeta.load(own)
    assert not canary.exists()


def test_computed_imports(work: Path, tmp_path: Path) -> None:
    """Code imported by a name that no source shows is recorded as it is loaded, and held to it."""
    (work / "own_net.py").write_text(NET + "\nimport importlib\nimportlib.import_module('own_' + 'plugin')\n")
    (work / "own_plugin.py").write_text("")
    run = tmp_path / "run"
    train(run, OWN_SMALL)
    with new_process():
        distmeta.load(run)
    (work / "own_plugin.py").write_text("changed = True\n")
    with new_process():
        with pytest.raises(TrustError, match=r"it would import own_plugin, but .*own_plugin.py has changed"):
            distmeta.load(run)
        assert "own_plugin" not in sys.modules


COMPUTED = """
import importlib
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        act = importlib.import_module("own_" + "act")
        return act.act(super().forward(x))

def make(input_shape, outputs):
    return Net(*input_shape, outputs)
"""


def test_computed_imports_of_a_network_at_work(work: Path, tmp_path: Path) -> None:
    """Within ``forward``: recorded too, with all that they import, so that an unchanged run may be loaded."""
    (work / "own_net.py").write_text(COMPUTED)
    (work / "own_act.py").write_text("from own_deep import act\n")
    (work / "own_deep.py").write_text("from torch import tanh as act\n")
    run = tmp_path / "run"
    train(run, OWN_SMALL)
    assert sorted(manifest(run)["identity"]["code"]) == ["own_act.py", "own_deep.py", "own_net.py"]
    with new_process():
        distmeta.evaluate(run)
    with new_process():
        train(run, OWN_SMALL, "run.steps=5", resume=True)
    (work / "own_deep.py").write_text("from torch import relu as act\n")
    with new_process(), pytest.raises(TrustError, match=r"it would import own_deep, but .*own_deep.py has changed"):
        distmeta.evaluate(run)
    with new_process(), pytest.raises(ChangedError, match=r"code: own_deep.py has changed"):
        train(run, OWN_SMALL, "run.steps=6", resume=True)


def test_packages_and_folders_of_modules(work: Path, tmp_path: Path) -> None:
    """Every ``__init__`` on the way counts; a folder without one is as good."""
    for folder, has_init in (("own_package", True), ("own_folder", False)):
        (work / folder).mkdir()
        (work / folder / "nets.py").write_text(NET.replace("from own_helper", "from .helper"))
        (work / folder / "helper.py").write_text(HELPER)
        if has_init:
            (work / folder / "__init__.py").write_text("")
        run = tmp_path / folder
        train(run, {**SMALL, "model": {"kind": f"module:{folder}.nets.make"}})
        with new_process():
            distmeta.load(run)
        (work / folder / ("__init__.py" if has_init else "helper.py")).write_text("width = 4\n")
        with new_process(), pytest.raises(TrustError, match=rf"{folder}.*has changed since the run"):
            distmeta.load(run)


def test_code_in_a_folder_of_the_working_directory(
    work: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``PYTHONPATH=src``, and by way of a link."""
    (work / "src").mkdir()
    (work / "own_net.py").rename(work / "src" / "own_net.py")
    (work / "own_helper.py").rename(work / "src" / "own_helper.py")
    (tmp_path / "link").symlink_to(work)
    for place in (work / "src", tmp_path / "link" / "src"):
        with new_process(), monkeypatch.context() as patch:
            patch.syspath_prepend(place)
            assert distmeta.load(own)
    (work / "src" / "own_helper.py").write_text("width = 3  # other\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "link" / "src")
        with pytest.raises(TrustError, match=r"own_helper.py has changed"):
            distmeta.load(own)


def test_settings_of_ones_own(work: Path, own: Path, tmp_path: Path) -> None:
    """A file that the user writes is trusted, wherever its run goes; so is what is named beside a run's file."""
    file = write_config(work, OWN_SMALL)
    (work / "own_helper.py").write_text("width = 2\n")
    assert distmeta.load_config(file).model.kind == OWN
    with pytest.raises(TrustError):
        distmeta.load_config(own / "config.yaml")
    assert distmeta.load_config(own / "config.yaml", [f"model.kind={OWN}"])
    assert distmeta.load_config(own / "config.yaml", trust_code=True)
    inside = own / "more" / "settings.yaml"
    inside.parent.mkdir()
    shutil.copy(own / "config.yaml", inside)
    with pytest.raises(TrustError):
        distmeta.load_config(inside)


def test_best_checkpoint_that_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    settings = [
        "run.validate_every=1",
        "run.keep=9",
        "outer.optimizer=sgd",
        "outer.lr=9",
        "outer.clip_norm=1",
        "run.steps=6",
    ]
    list(distmeta.train(configure(SMALL, *settings), run))
    result = json.loads((run / "result.json").read_text())
    best = result["best_validation"]["step"]
    assert best < 6
    shutil.rmtree(run / result["checkpoint"])
    found, messages = checkpoint.best(Storage.at(run))
    assert found is not None
    assert found.step == 6
    assert len(messages) == 1
    distmeta.evaluate(run)
    assert f"step-{best:08d} is missing (it has the best validation, mse " in caplog.text
    assert "using the last checkpoint, of step 6, instead" in caplog.text
    assert parameters(run, 6)


def test_jobs(work: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job takes along is as the run recorded it, and what the user allows goes with it."""
    job = prepare("evaluate", Submission(str(own), name="test", modules=("own_net", "own_helper")))
    assert "--trust-code" not in job.arguments
    sent = tmp_path / "sent"
    sent.mkdir()
    pack(job, sent)
    with new_process():
        monkeypatch.chdir(sent)
        assert distmeta.evaluate(own)
    allowed = Submission(str(own), name="test", trust_code=True)
    assert prepare("evaluate", allowed).arguments[-1] == "--trust-code"
    with pytest.raises(ConfigError, match="--accept-changes"):
        prepare("evaluate", Submission(str(own), name="test", accept_changes=True))

    monkeypatch.chdir(work)
    (work / "own_helper.py").write_text("width = 2\n")
    settings = str(own / "config.yaml")
    with new_process(), pytest.raises(TrustError):
        prepare("train", Submission(settings, name="test"))
    arguments = prepare("train", Submission(settings, name="test", trust_code=True, accept_changes=True)).arguments
    assert arguments[-2:] == ["--trust-code", "--accept-changes"]
