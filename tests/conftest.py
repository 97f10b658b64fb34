"""What all tests share: a cache of their own, one Ray for the whole session, the Omniglot archives."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

QUIET = {
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
ARCHIVES = ("images_background.zip", "images_evaluation.zip")


@pytest.fixture(scope="session", autouse=True)
def distmeta_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this session's own, so that stores are built once and nobody's own cache is touched."""
    folder = tmp_path_factory.mktemp("distmeta-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def ray_cluster(distmeta_cache: Path) -> Iterator[None]:
    """The one Ray of this process: four CPUs, this machine only, no tokens. The package's own code finds it started."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for name, value in QUIET.items():
            patch.setenv(name, value)
        # Workers import the models of tests/integration as this process does.
        models = str(Path(__file__).parent / "integration")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [models, os.environ.get("PYTHONPATH")])))
        ray.init(
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
def omniglot() -> Path:
    """The folder with the real Omniglot archives: in DISTMETA_DATA, or in shared/data beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    for base in filter(None, [os.environ.get("DISTMETA_DATA"), str(beside)]):
        for folder in (Path(base), Path(base, "omniglot")):
            if all((folder / name).is_file() for name in ARCHIVES):
                return folder
    pytest.skip(f"the Omniglot archives are neither in DISTMETA_DATA nor in {beside}")


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
