"""What all tests share: a cache of their own, one Ray for the whole session, the Omniglot archives.

`make test` runs them in two processes: one has all tests of the session's Ray, the other takes the rest file by file,
and both share what is left.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

QUIET = {
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
# Two processes on two cores: what a test does not say about threads should be one thread. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ray's workers would starve beside the other process.
    os.environ.setdefault("RAY_worker_niceness", "0")

pytest_plugins = ("run_fixtures", "storage_fixtures")

MACHINE = (
    "CUDA",
    "g++ here",  # and clang++
    "compiler",
    "machine",
    "root",
    "namespace",
    "Linux",
    "/proc",
    "archives",
    "has Ray already",
    "distmeta[metaworld]",  # which pins an older MuJoCo
)
"""Of these words a reason to skip has one that is about what a machine has not, or about the order of tests."""

ARCHIVES = ("images_background.zip", "images_evaluation.zip")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the session's Ray first: in two processes they take longest."""
    items.sort(key=lambda item: not _uses_ray(item.path))


def pytest_collection_finish() -> None:
    """What is there by now stays: looking through it for garbage, time and again, takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where ``DISTMETA_STRICT_SKIPS`` is set, a test that is skipped for another reason than the machine's fails."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("DISTMETA_STRICT_SKIPS"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in MACHINE):
            report.outcome, report.longrepr = "failed", f"an unexpected skip: {reason}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files with tests of the session's Ray go to one process, so that it is started once; the rest file by file.

    (``--dist loadgroup`` would do, but pytest-xdist 3.8 does not group under pytest 9.2: its issue 1386.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if _uses_ray(config.rootpath / file) else file

    config.option.loadscopereorder = False
    return Together(config, log)


@cache
def _uses_ray(file: Path) -> bool:
    return "ray_cluster" in file.read_text(encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def distmeta_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this session's own, so that stores are built once and nobody's own cache is touched.

    Processes of one session share it: what is built in it is built under a lock.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "distmeta-cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def ray_cluster(distmeta_cache: Path) -> Iterator[None]:
    """The one Ray of this process: four CPUs, this machine only, no tokens. The package's own code finds it started."""
    import ray

    from distmeta.serving.proxy import through_haproxy

    with pytest.MonkeyPatch.context() as patch, through_haproxy():
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for name, value in QUIET.items():
            patch.setenv(name, value)
        # Workers import the models of this folder as this process does.
        helpers = str(Path(__file__).with_name("helpers"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [helpers, os.environ.get("PYTHONPATH")])))
        ray.init(
            "local",  # not one that happens to run on this machine
            num_cpus=4,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """An empty bucket's URI, to which a path is added, on a server that speaks S3's protocol.

    It holds credentials, as other processes read and write there too.
    """
    import pyarrow.fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        uri = "s3://key:secret@bucket{}?scheme=http&region=us-east-1&allow_bucket_creation=true"
        uri += f"&endpoint_override=127.0.0.1:{port}"
        pyarrow.fs.FileSystem.from_uri(uri.format(""))[0].create_dir("bucket")
        yield uri
    finally:
        server.stop()


def shared_data(folder: str, files: Sequence[str]) -> Path:
    """The folder with these files of a data set: in DISTMETA_DATA, or in shared/data beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    for base in filter(None, [os.environ.get("DISTMETA_DATA"), str(beside)]):
        for place in (Path(base), Path(base, folder)):
            if all((place / name).is_file() for name in files):
                return place
    pytest.skip(f"the archives of {folder} are neither in DISTMETA_DATA nor in {beside}")


@pytest.fixture(scope="session")
def omniglot() -> Path:
    """The folder with the real Omniglot archives."""
    return shared_data("omniglot", ARCHIVES)


@pytest.fixture(scope="session")
def clinc() -> Path:
    """The folder with CLINC150's files."""
    return shared_data("clinc150", ["data_full.json", "domains.json"])


@pytest.fixture(scope="session")
def cifar_fs() -> Path:
    """The folder with CIFAR-FS's archives."""
    return shared_data("cifar_fs", ["train.zip", "validation.zip", "test.zip"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
