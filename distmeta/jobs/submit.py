"""Jobs on a Ray cluster: send one, list them, follow one's log, stop one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from distmeta.core.environment import environment
from distmeta.core.secrets import mask
from distmeta.errors import ClusterError, Interrupted, JobError
from distmeta.jobs.packing import Job, pack
from distmeta.workers.ray.internals import RAY_LOGGERS, job_client

__all__ = ["JobCluster", "JobDetails"]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray's own job commands look for an address, in this order."""

STOP_SECONDS = 120
"""Between asking a job to end and killing it: time for the meta-step at work and its checkpoint. Ray's default is 3."""

_TIMEOUT = (5, 120)  # seconds to connect, and to wait for an answer; Ray's client has no limit of its own
_POLL = 0.5  # seconds between looks at a job that is stopping


class JobCluster:
    """The jobs of a cluster.

    Args:
        address: ``http://HOST:PORT`` of its dashboard; by default what Ray's own environment variables say, else
            port 8265 of this machine.

    Raises:
        ClusterError: from every method too: no cluster at the address, or it refuses.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address, said_by = _find_address(address)
        self._option = f" --address {mask(self.address)}" if said_by == "--address" else ""
        if not self.address.startswith(("http://", "https://")):
            raise ClusterError(
                f"{said_by} = {self.address}: expected the address of the cluster's dashboard, for example "
                f"--address {DEFAULT_ADDRESS}"
            )
        for chatter in RAY_LOGGERS:
            logging.getLogger(chatter).setLevel(logging.WARNING)
        with self._explained(), environment({ADDRESS_VARIABLES[0]: self.address}):
            self._client = job_client(_TIMEOUT)  # Ray lets its variables win over an argument

    def submit(self, job: Job) -> list[str]:
        """Send a job.

        Returns:
            What to tell the user about its modules.

        Raises:
            ClusterError: the name is in use.
        """
        if any(each.submission_id == job.name for each in self.jobs()):
            raise ClusterError(
                f"there is a job {job.name} at {self.address} already; choose another --name, and keep its --run-dir "
                "if this job is to --resume it"
            )
        with tempfile.TemporaryDirectory(prefix="distmeta-job-") as folder:
            notes = pack(job, Path(folder))
            with self._explained():
                self._client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "distmeta", *job.arguments]),
                    submission_id=job.name,
                    runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
                )
        return notes

    def jobs(self) -> list[JobDetails]:
        """All jobs that were sent to the cluster, the latest last."""
        with self._explained():
            found = [job for job in self._client.list_jobs() if job.type == JobType.SUBMISSION]
        return sorted(found, key=lambda job: job.start_time or 0)

    def find(self, name: str) -> JobDetails:
        """A job by its name.

        Raises:
            ClusterError: there is none; lists those that there are.
        """
        jobs = self.jobs()
        for job in jobs:
            if job.submission_id == name:
                return job
        known = ", ".join(job.submission_id or "" for job in reversed(jobs)) or "none"
        raise ClusterError(f"there is no job {name} at {self.address}; its jobs are: {known}")

    def log(self, name: str) -> str:
        """What a job has printed so far."""
        self.find(name)
        with self._explained():
            return str(self._client.get_job_logs(name))

    def follow(self, name: str, write: Callable[[str], None]) -> None:
        """Pass on what a job prints, from its beginning until it ends.

        Raises:
            JobError: the job failed or was stopped; with its exit code.
            Interrupted: Ctrl-C; the job goes on.
            ClusterError: there is no such job, or the connection broke.
        """
        self.find(name)
        try:
            asyncio.run(self._tail(name, write))
            ended = self.find(name)
            if not ended.status.is_terminal():
                raise RuntimeError("the log ended before the job")
        except KeyboardInterrupt:
            raise Interrupted(
                f"detached; the job goes on. {self.hint('logs', name)} follows it again, "
                f"{self.hint('stop', name)} ends it"
            ) from None
        except BrokenPipeError:  # nobody reads what is written
            raise
        except (ClusterError, RuntimeError, aiohttp.ClientError, OSError) as error:
            raise ClusterError(
                f"the connection to {self.address} broke: {_line(error)}. The job goes on as long as its cluster does; "
                f"{self.hint('logs', name)} follows it again"
            ) from None
        _check_success(ended)

    async def _tail(self, name: str, write: Callable[[str], None]) -> None:
        async for lines in self._client.tail_job_logs(name):
            write(lines)

    def stop(self, name: str) -> JobDetails:
        """Ask a job to checkpoint and end, and wait until it has; gives the job as it ended."""
        job = self.find(name)
        while not job.status.is_terminal():
            with self._explained():
                self._client.stop_job(name)  # again and again, since one that is only starting cannot hear it yet
            time.sleep(_POLL)
            job = self.find(name)
        return job

    def hint(self, command: str, name: str) -> str:
        """The command line for a job, for people."""
        return f"`distmeta {command} {name}{self._option}`"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Ray's client raises into one clear message."""
        try:
            yield
        except AuthenticationError as error:
            problem = "refuses this token" if "Authentication failed" in str(error) else "wants a token, and got none"
            raise ClusterError(
                f"the cluster at {self.address} {problem}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file "
                "~/.ray/auth_token to the cluster's token"
            ) from None
        except (ConnectionError, requests.exceptions.RequestException) as error:
            detail = "" if type(error) is ConnectionError else f" ({_line(error)})"  # Ray's says just the same
            raise ClusterError(
                f"cannot reach the dashboard of a Ray cluster at {self.address}{detail}; check --address, and that the "
                "cluster runs"
            ) from None
        except (RuntimeError, ValueError) as error:
            raise ClusterError(self._refusal(error)) from None

    def _refusal(self, error: Exception) -> str:
        text = str(error)
        if "Version check returned 404" in text:
            return f"what answers at {self.address} is not the dashboard of a Ray cluster; check --address"
        if "No available agent" in text:
            return (
                f"the cluster at {self.address} takes no jobs: the agent of its dashboard does not run. Try again in a "
                "moment; if another Ray runs on that host, give `ray start` a free --dashboard-agent-listen-port"
            )
        return f"the cluster at {self.address} refuses: {_line(error)}"


def _check_success(job: JobDetails) -> None:
    code = job.driver_exit_code
    if job.status == JobStatus.SUCCEEDED:
        return
    if job.status == JobStatus.STOPPED:
        raise JobError(f"job {job.submission_id} was stopped", 1)
    if not code:
        raise JobError(f"job {job.submission_id} failed: {job.message}", 1)
    # A shell's way to tell of a signal.
    raise JobError(f"job {job.submission_id} ended with exit code {code}", code if code > 0 else 128 - code)


def _find_address(given: str | None) -> tuple[str, str]:
    """The address, and who says so."""
    said = {"--address": given, **{name: os.environ.get(name) for name in ADDRESS_VARIABLES}}
    return next(((value.rstrip("/"), name) for name, value in said.items() if value), (DEFAULT_ADDRESS, "the default"))


def _line(error: BaseException) -> str:
    """The line of an error that says most: Ray's server sends whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (lines[-1] if "Traceback" in str(error) else lines[0]).rstrip(".")
