"""Several hosts on one machine: each has its own network address, processes, temporary files and working folder.

A host is a set of Linux namespaces with Ray inside, under a supervisor that starts Ray again when it ends, as a service
manager would. The hosts hang on one switch, a bridge in a network namespace of its own. Nothing of all this has a name
on the machine, so any number of sessions run side by side, and the kernel takes everything down when the last process
of it ends; the processes end with the one that started them.

Every host sees its own folder at one and the same path, :attr:`Hosts.root`, and nothing of the others' folders: what a
driver has there, other hosts do not have. Python's environment and this checkout are the same on all hosts, read-only.

It takes root, iproute2 and util-linux (:func:`refusal` says what is missing). By hand:

    python tests/helpers/cluster_hosts.py

starts three hosts, prints how to enter them, and ends them with Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster_programs import HERE, PATIENCE, RAY, REPOSITORY, Done, Running, python_path, wait_for

PORT = 6379
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
NAMESPACES = ("unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")

BOOT = """
exec 2> "$OWN/boot.log"
set -e
read -r _  # until the network is there
mount --bind "$OWN" "$ROOT"
mkdir -p /tmp/ray
mount --bind "$ROOT/ray" /tmp/ray
mount --bind "$ROOT/hosts" /etc/hosts
mount -t tmpfs -o size=1g tmpfs /dev/shm
for shared in $SHARED; do
    mount --bind "$shared" "$shared"
    mount -o remount,bind,ro "$shared"
done
hostname "host$NUMBER"
cd "$ROOT/work"
set +e
while true; do
    "$@" >> "$ROOT/ray.log" 2>&1 < /dev/null
    sleep 0.5
done
"""
"""What process 1 of a host runs: mounts, then Ray, again whenever it ends."""


def refusal() -> str | None:
    """Why there can be no hosts on this machine; None where there can."""
    if os.geteuid() != 0:
        return "hosts of their own take root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"hosts of their own take iproute2 and util-linux; not found: {', '.join(missing)}"
    trial = [*NAMESPACES, "sh", "-c", "ip link add trial type bridge && mount -t tmpfs tmpfs /mnt && hostname trial"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"this machine refuses namespaces: {done.stderr.strip()}" if done.returncode else None


class Host:
    """One of the :class:`Hosts`."""

    def __init__(self, hosts: Hosts, number: int, cpus: int, head: bool) -> None:
        self.number, self.address = number, f"10.77.0.{number}"
        self.folder = hosts.outside / f"host{number}"
        """Where this host's folder lies for processes outside: what is :attr:`Hosts.root` inside."""
        self._hosts, self._root = hosts, hosts.root
        self._count = 0
        self._make_folders()
        environment = {"OWN": str(self.folder), "ROOT": str(self._root), "NUMBER": str(number)}
        environment["SHARED"] = " ".join(dict.fromkeys([str(REPOSITORY), sys.prefix]))
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *NAMESPACES, "bash", "-c", BOOT, "host", *_ray_start(self, cpus, head)],
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # unshare complains of the signal that kills it
            start_new_session=True,  # Ctrl-C is for this process, which then ends the host
        )
        self._init = wait_for(lambda: _children(self._process.pid), bool)[0]
        self._plug_in()
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    def _make_folders(self) -> None:
        for name in ("work", "cache", "home", "ray"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # As Debian has it: the host's own name leads to no address that others could use.
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 host{self.number}\n")

    def _plug_in(self) -> None:
        """A cable to the switch. The hardware address stays the same, so that others find the host after a restart."""
        name, peer = f"v{self.number}", ["address", f"02:00:00:00:77:{self.number:02x}"]
        with suppress(subprocess.CalledProcessError):  # of the host that had this number before
            self._hosts.switch("ip", "link", "del", name)
        cable = ["type", "veth", "peer", "name", "eth0", *peer, "netns", str(self._init)]
        self._hosts.switch("ip", "link", "add", name, *cable)
        self._hosts.switch("ip", "link", "set", name, "master", "br0", "up")
        for command in (
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            "route add default via 10.77.0.254",
        ):
            _call("nsenter", "-t", str(self._init), "--net", "ip", *command.split())

    @property
    def environment(self) -> dict[str, str]:
        """The environment of everything on the host."""
        return {
            **RAY,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
            "PYTHONPATH": python_path(),
            "HOME": f"{self._root}/home",
            "DISTMETA_CACHE": f"{self._root}/cache",
            "LANG": "C.UTF-8",
        }

    # What happens to it -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL for everything on it at once."""
        with suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._process.wait(PATIENCE)

    def cut(self) -> None:
        """Pull the cable."""
        self._hosts.switch("ip", "link", "set", f"v{self.number}", "down")

    def restore(self) -> None:
        """Plug the cable in again."""
        self._hosts.switch("ip", "link", "set", f"v{self.number}", "up")

    # What runs on it ----------------------------------------------------------------------------------------------

    def entrance(self) -> list[str]:
        """The command before a command that runs it on the host."""
        return ["nsenter", "-t", str(self._init), "--net", "--uts", "--ipc", "--mount", "--pid"]

    def start(self, *command: str | Path) -> Running:
        """Start a program in the host's working folder."""
        self._count += 1
        inside = [*self.entrance(), "env", f"--chdir={self._root}/work", *command]
        return Running.start(inside, self.folder / f"program-{self._count}", self.folder, self.environment)

    def run(self, *command: str | Path) -> Done:
        """A program to its end."""
        return self.start(*command).end()

    def workers(self) -> list[int]:
        """The Ray workers of distmeta on this host, by the process ids that they have outside."""
        with suppress(FileNotFoundError):
            mine = os.readlink(f"/proc/{self._init}/ns/pid")
            return sorted(pid for pid in _pids() if _is_worker(pid) and _namespace(pid) == mine)
        return []


class Hosts:
    """A switch, and the hosts on it. Number 1 is the head of the Ray cluster.

    Args:
        outside: an empty folder, for all that the hosts write.

    >>> with Hosts(Path("/tmp/three")) as hosts:  # doctest: +SKIP
    ...     hosts.start(1, cpus=1)
    ...     hosts.start(2, cpus=2)
    ...     hosts.settle()
    ...     hosts[1].run("distmeta", "train", "my.yaml", f"cluster.address={hosts.cluster}").succeeded()
    """

    cluster = f"10.77.0.1:{PORT}"
    """Where Ray is, for drivers on a host."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside
        self.root = outside / "here"
        """The path at which every host sees its own folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._hosts: dict[int, Host] = {}
        self._eye: subprocess.Popen[str] | None = None
        self._switch = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"], start_new_session=True
        )
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: _namespace(self._switch.pid, "net"), lambda seen: seen not in (own, None))
        self.switch("ip", "link", "add", "br0", "type", "bridge")
        self.switch("ip", "addr", "add", "10.77.0.254/24", "dev", "br0")
        self.switch("ip", "link", "set", "br0", "up")

    def switch(self, *command: str) -> None:
        """Run a command where the switch is."""
        _call("nsenter", "-t", str(self._switch.pid), "--net", *command)

    def start(self, number: int, cpus: int) -> Host:
        """Start a host; one that has this number ends first. Ray on it comes up a while later: :meth:`settle`."""
        if number in self._hosts:
            self._hosts[number].kill()
        self._hosts[number] = Host(self, number, cpus, head=number == 1)
        return self._hosts[number]

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def kill(self, number: int) -> None:
        """End a host for good."""
        self._hosts.pop(number).kill()

    def keep(self, cpus: Mapping[int, int]) -> None:
        """See to it that just these hosts run, with so many CPUs where they have to be started, and that Ray knows."""
        for number in [number for number in self._hosts if number not in cpus]:
            self.kill(number)
        for number in cpus:
            if number not in self._hosts:
                self.start(number, cpus[number])
        self.settle()

    def settle(self, patience: float = PATIENCE) -> None:
        """Wait until Ray knows all hosts that run, and no others."""
        expected = sorted(host.address for host in self)
        wait_for(lambda: sorted(node["address"] for node in self.alive()), lambda seen: seen == expected, patience)

    # What Ray knows -----------------------------------------------------------------------------------------------

    def alive(self) -> list[dict[str, Any]]:
        """The ``id`` and ``address`` of every node that Ray holds for alive."""
        nodes: list[dict[str, Any]] = self._ask("nodes")
        return nodes

    def drain(self, number: int, seconds: float) -> None:
        """Announce that a host ends so many seconds from now."""
        (node,) = [node["id"] for node in self.alive() if node["address"] == self[number].address]
        assert self._ask("drain", node, seconds) is True

    def requested(self) -> list[dict[str, float]]:
        """The resources that the autoscaler is asked for."""
        bundles: list[dict[str, float]] = self._ask("requested")
        return bundles

    def _ask(self, *question: object) -> Any:
        if self._eye is None:
            program = [sys.executable, str(HERE / "cluster_eye.py"), self.cluster]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._eye = subprocess.Popen(
                [*self[1].entrance(), *program], env=self[1].environment, text=True, start_new_session=True, **pipes
            )
        assert self._eye.stdin is not None
        assert self._eye.stdout is not None
        print(json.dumps(question), file=self._eye.stdin, flush=True)
        answer = self._eye.stdout.readline()
        assert answer, f"the head has no Ray; {self[1].folder}/ray.log says why"
        return json.loads(answer)

    def close(self) -> None:
        """End everything."""
        for host in list(self._hosts.values()):
            host.kill()
        self._hosts.clear()
        if self._eye is not None:
            self._eye.communicate()
        self._switch.kill()
        self._switch.wait()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ray_start(host: Host, cpus: int, head: bool) -> list[str]:
    own = ["--head", f"--port={PORT}", "--include-dashboard=false", "--no-monitor"]
    where = own if head else [f"--address={Hosts.cluster}"]
    return [
        *("ray", "start", "--block", *where, f"--node-ip-address={host.address}", f"--num-cpus={cpus}"),
        *("--object-store-memory=200000000", "--include-log-monitor=false", "--disable-usage-stats"),
    ]


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


# Processes, as seen from outside ----------------------------------------------------------------------------------


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _namespace(pid: int, kind: str = "pid") -> str | None:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    return None


def _is_worker(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RayWorker")
    return False


def main() -> None:
    """Three hosts until Ctrl-C."""
    reason = refusal()
    if reason is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder, Hosts(Path(folder)) as hosts:
        for number in (1, 2, 3):
            hosts.start(number, cpus=1)
        hosts.settle()
        for host in hosts:
            print(f"host{host.number}, {host.address}, folder {host.folder}, enter it with")
            settings = [f"{name}={value}" for name, value in host.environment.items()]
            print(f"  {shlex.join([*host.entrance(), 'env', f'--chdir={hosts.root}/work', *settings, 'bash'])}")
        print(f"On a host: distmeta train CONFIG cluster.address={hosts.cluster}\nCtrl-C ends them all.", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience would leave the folder behind


if __name__ == "__main__":
    main()
