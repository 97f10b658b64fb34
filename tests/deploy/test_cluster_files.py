"""The files in cluster/, without a cluster: by Ray's own validation, by schemas, by the programs' own parsers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cluster_programs import wait_for
from command_lines import command_lines, parse
from kubernetes_schema import SCHEMAS
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from distmeta.config.schema import Config
from distmeta.config.sections import WorkerRange
from distmeta.loading import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(path.name for pattern in ("*.yaml", "*.sbatch", "Dockerfile") for path in CLUSTER.glob(pattern))
CLOUDS = ("aws.yaml", "gcp.yaml")
KUBERNETES = ("kuberay-raycluster.yaml", "kuberay-rayjob.yaml")

PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
IMAGE = f"REGISTRY/distmeta:{metadata.version('distmeta')}"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def instructions() -> list[tuple[str, str]]:
    lines = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    parts = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    return [(word, body) for word, body in parts]


def shell_of(name: str) -> str:
    """What a file makes a shell run."""
    text = (CLUSTER / name).read_text()
    if name == "README.md":
        return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    if name == "kuberay-rayjob.yaml":
        return str(read(name)["spec"]["entrypoint"])
    if name in KUBERNETES:
        return ""
    if name == "Dockerfile":
        return "\n".join(body for word, body in instructions() if word == "RUN")
    if name.endswith(".yaml"):
        return "\n".join(line for key, lines in read(name).items() if key.endswith("commands") for line in lines)
    return text


def every_command() -> Iterator[tuple[str, list[str]]]:
    # What slurm.sbatch runs is known only when it runs: see run_sbatch.
    for name in ("README.md", *FILES):
        if name != "slurm.sbatch":
            for command in command_lines(shell_of(name)):
                yield name, command


def train_config(command: list[str]) -> Config:
    """The configuration that a command of distmeta names first, with its overrides."""
    return load_config(ROOT / command[2], parse(command)["overrides"] or ())


def short(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)[:60]


def most_workers(config: Config) -> int:
    assert isinstance(config.cluster.workers, WorkerRange)
    return config.cluster.workers.max


def test_pinned_versions_are_those_the_package_asks_for() -> None:
    asked = {requirement.name: requirement for requirement in map(Requirement, metadata.requires("distmeta") or ())}
    assert set(PINNED) == {"ray", "torch"}
    for name, version in PINNED.items():
        assert asked[name].specifier.contains(version)


def test_commands_are_found_in_every_file_that_has_some() -> None:
    having = {name for name, _ in every_command()}
    assert having == {"README.md", "aws.yaml", "gcp.yaml", "local.yaml", "kuberay-rayjob.yaml"}


@pytest.mark.parametrize(("name", "command"), list(every_command()), ids=short)
def test_commands_parse(name: str, command: list[str]) -> None:
    parse(command)
    if command[:2] in (["distmeta", "train"], ["distmeta", "submit"]):
        assert train_config(command).cluster.workers != 0
    for word in command:
        if word.startswith("cluster/"):
            assert (ROOT / word).is_file()


def test_readme_names_every_file() -> None:
    text = (CLUSTER / "README.md").read_text()
    table = set(re.findall(r"`([\w.-]+\.(?:yaml|sbatch)|Dockerfile)`", text))
    assert table == set(FILES)
    assert "## Faults\n\nWorkers that die, hang or lose their host are replaced" in text


# --- ray up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CLOUDS, "local.yaml"])
def test_ray_accepts_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    config = prepare_config(read(name))
    validate_config(config)
    for local in config["file_mounts"].values():
        assert local == "~/.ray/auth_token" or Path(local).exists()


NODE_KEYS = {
    "aws.yaml": {"InstanceType", "ImageId", "BlockDeviceMappings", "InstanceMarketOptions"},
    "gcp.yaml": {"machineType", "disks", "metadata", "scheduling"},
}


@pytest.mark.parametrize("name", CLOUDS)
def test_node_types(name: str) -> None:
    config = read(name)
    types: dict[str, Any] = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "max_workers" not in head
    for kind in types.values():
        assert 0 <= kind["min_workers"] <= kind["max_workers"] <= config["max_workers"]
        assert kind["resources"]["CPU"] > 0
        assert kind["resources"]["GPU"] == 1
    for kind in (head, *types.values()):
        assert set(kind["node_config"]) <= NODE_KEYS[name]
    machine = "InstanceType" if name == "aws.yaml" else "machineType"
    # Workers of different hardware do not share a run.
    assert len({kind["node_config"][machine] for kind in types.values()}) == 1
    assert [kind for kind, value in types.items() if is_spot(value["node_config"])] == ["gpu_spot"]
    assert not is_spot(head["node_config"])


def is_spot(node: dict[str, Any]) -> bool:
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("name", CLOUDS)
def test_image_and_token_of_clouds(name: str) -> None:
    config = read(name)
    docker = config["docker"]
    assert docker["image"] == IMAGE
    assert "--env RAY_AUTH_MODE=token" in docker["run_options"]
    assert config["file_mounts"] == {"/home/distmeta/.ray/auth_token": "~/.ray/auth_token"}
    for line in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert "0.0.0.0" not in line


def test_local_sets_the_token_mode_wherever_ray_starts() -> None:
    config = read("local.yaml")
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [line for line in starts if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token " in line for line in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_runs_take_as_many_workers_as_there_may_be_hosts() -> None:
    most = {name: read(name)["max_workers"] for name in CLOUDS}
    commands = [command for name, command in every_command() if name == "README.md" and command[1] == "exec"]
    for command in commands[:2]:
        name = Path(command[3]).name
        (inner,) = command_lines(command[-1])
        config = train_config(inner)
        assert most_workers(config) == most[name]
        assert config.cluster.gpus_per_worker == 1


# --- Kubernetes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_objects(name: str) -> None:
    document = read(name)
    jsonschema.validate(document, SCHEMAS[document["kind"]])
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    assert spec["rayVersion"] == PINNED["ray"]
    groups = spec["workerGroupSpecs"]
    assert len({group["groupName"] for group in groups}) == len(groups)
    pods = [spec["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in groups)]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == IMAGE
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["serviceAccountName"] == "SERVICE_ACCOUNT"
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    ports = {port["name"]: port["containerPort"] for port in pods[0]["containers"][0]["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001}


def test_ray_job_resumes_and_its_workers_fit() -> None:
    spec = read("kuberay-rayjob.yaml")["spec"]
    (command,) = command_lines(spec["entrypoint"])
    params = parse(command)
    assert params["resume"]
    assert params["run_dir"].startswith("s3://")
    config = train_config(command)
    assert config.run.checkpoint_every > 0
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cores = int(container["resources"]["limits"]["cpu"]) * group["maxReplicas"]
    assert most_workers(config) * config.cluster.cpus_per_worker == cores
    assert config.cluster.gpus_per_worker == 0


def test_readme_names_the_cluster_that_stays() -> None:
    name = read("kuberay-raycluster.yaml")["metadata"]["name"]
    shell = shell_of("README.md")
    assert f"service/{name}-head-svc 8265:8265" in shell
    assert f"get secret {name} --template='{{{{.data.auth_token}}}}'" in shell


# --- the image ------------------------------------------------------------------------------------------------------

INSTRUCTIONS = {"FROM", "RUN", "ARG", "ENV", "WORKDIR", "COPY", "USER", "CMD"}


def test_image_is_built_from_what_is_there() -> None:
    steps = instructions()
    assert {word for word, _ in steps} <= INSTRUCTIONS
    (base,) = [body for word, body in steps if word == "FROM"]
    version = re.sub(r"^python:([\d.]+)-slim-\w+$", r"\1", base)
    assert SpecifierSet(metadata.metadata("distmeta")["Requires-Python"]).contains(version)
    for word, body in steps:
        if word == "RUN":
            subprocess.run(["bash", "-n"], input=body, text=True, check=True)
        if word == "COPY":
            *sources, _ = [part for part in body.split() if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)


def test_image_pins_versions_compiles_kernels_and_is_no_root() -> None:
    steps = instructions()
    runs = [body for word, body in steps if word == "RUN"]
    installs = [part for body in runs for part in body.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in part for part in installs)
    apt = next(body for body in runs if "apt-get install" in body)
    assert {"g++", "openssh-client", "rsync", "wget"} <= set(apt.split())
    (user,) = [body for word, body in steps if word == "USER"]
    made = next(body for body in runs if "useradd" in body)
    assert user != "root"
    assert re.search(rf"useradd .*\b{user}\b", made)
    environment = dict(pair.split("=") for word, body in steps if word == "ENV" for pair in body.split())
    assert environment["HOME"] == f"/home/{user}"
    assert environment["DISTMETA_CACHE"].startswith(environment["HOME"])
    arguments = {body.partition("=")[0] for word, body in steps if word == "ARG"}
    text = (CLUSTER / "README.md").read_text()
    assert set(re.findall(r"--build-arg (\w+)=", text)) == arguments
    assert f"--tag {IMAGE} ." in text


# --- Slurm ----------------------------------------------------------------------------------------------------------

SBATCH = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": "1",  # one Ray a node
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "time": r"\d\d:\d\d:\d\d",
    "exclusive": "",
    "no-kill": "",
    "requeue": "",
    "open-mode": "append",
    "signal": r"B:TERM@\d+",
}

RECORDER = """#!/bin/bash
line=$(printf '%s\\x1f' {name} "$RAY_AUTH_MODE" "$RAY_AUTH_TOKEN" "$@")
printf '%s\\n' "$line" >> {log}  # in one piece, since several may write at once
{then}
"""
SRUN = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'
SHOW = 'if [[ $1 == show ]]; then printf "node%s\\n" 1 2 3; fi'
UNTIL_STOPPED = 'trap "exit 130" TERM; touch started; while true; do sleep 0.05; done'


@pytest.fixture
def allocation(tmp_path: Path) -> Path:
    """A folder as slurm.sbatch finds it, with programs that write down how they were called."""
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f"export PATH={binaries}:$PATH\n")
    for name, then in {"srun": SRUN, "scontrol": SHOW, "ray": "", "distmeta": ""}.items():
        record(tmp_path, name, then)
    return tmp_path


def record(folder: Path, name: str, then: str) -> None:
    program = folder / ".venv" / "bin" / name
    program.write_text(RECORDER.format(name=name, log=folder / f"{name}.log", then=then))
    program.chmod(0o755)


def run_sbatch(folder: Path, **settings: str) -> subprocess.Popen[bytes]:
    slurm = {"JOB_ID": "7", "JOB_NAME": "distmeta", "JOB_NODELIST": "node[1-3]", "JOB_NUM_NODES": "3"}
    environment = {f"SLURM_{key}": value for key, value in {**slurm, "CPUS_PER_TASK": "16", **settings}.items()}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RAY_"))}
    return subprocess.Popen(["bash", str(CLUSTER / "slurm.sbatch")], cwd=folder, env={**clean, **environment})


def calls(folder: Path, name: str) -> list[list[str]]:
    """How a program was called: name, RAY_AUTH_MODE, RAY_AUTH_TOKEN, arguments."""
    log = folder / f"{name}.log"
    return [line.split("\x1f")[:-1] for line in log.read_text().splitlines()] if log.exists() else []


def test_sbatch_options() -> None:
    text = (CLUSTER / "slurm.sbatch").read_text()
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sbatch")], check=True)
    options = re.findall(r"^##?SBATCH (.*)$", text, re.MULTILINE)
    assert len(options) == len(SBATCH)
    for option in options:
        name, _, value = option.removeprefix("--").partition("=")
        assert option.startswith("--")
        assert re.fullmatch(SBATCH[name], value)


def test_sbatch_starts_ray_on_every_node_then_trains(allocation: Path) -> None:
    assert run_sbatch(allocation).wait(60) == 0
    # Ray's processes of the other nodes are the script's children, for which it does not wait.
    ray = wait_for(lambda: calls(allocation, "ray"), lambda seen: sum(words[3] == "start" for words in seen) == 3)
    distmeta = calls(allocation, "distmeta")
    tokens = {(mode, token) for _, mode, token, *_ in [*ray, *distmeta]}
    ((mode, token),) = tokens
    assert mode == "token"
    assert len(token) == 64
    starts = [parse(["ray", *words]) for _, _, _, *words in ray if words[0] == "start"]
    assert sorted(start["head"] for start in starts) == [False, False, True]
    assert all(start["block"] and start["num_cpus"] == 16 for start in starts)
    nodes = [words[words.index("--nodes=1") + 2] for words in calls(allocation, "srun")]
    assert sorted(nodes) == [f"--nodelist=node{n}" for n in (1, 2, 3)]
    for _, _, _, *words in ray:
        parse(["ray", *words])
    ((_, _, _, *words),) = distmeta
    assert parse(["distmeta", *words])["resume"]
    config = train_config(["distmeta", *words])
    assert {start["address"] for start in starts if not start["head"]} == {config.cluster.address}
    assert most_workers(config) == 3 * 16
    assert config.run.checkpoint_every > 0


def test_sbatch_counts_gpus_where_there_are_some(allocation: Path) -> None:
    assert run_sbatch(allocation, GPUS_ON_NODE="4").wait(60) == 0
    ((_, _, _, *words),) = calls(allocation, "distmeta")
    assert most_workers(train_config(["distmeta", *words])) == 3 * 4


def test_sbatch_ends_as_training_ends(allocation: Path) -> None:
    record(allocation, "distmeta", "exit 2")
    assert run_sbatch(allocation).wait(60) == 2
    assert [words[3] for words in calls(allocation, "scontrol")] == ["show"]


def test_sbatch_out_of_time_is_queued_again(allocation: Path) -> None:
    record(allocation, "distmeta", UNTIL_STOPPED)
    process = run_sbatch(allocation)
    while not (allocation / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert calls(allocation, "scontrol")[-1][3:] == ["requeue", "7"]
