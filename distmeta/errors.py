"""Errors that are for people: each names the thing, what was expected, and what to do."""

from __future__ import annotations

from distmeta.core.secrets import mask


class DistmetaError(Exception):
    """A problem that the user can solve; the command line prints its message and no traceback.

    Secrets of URIs in the message are masked.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(mask(each) if isinstance(each, str) else each for each in args))


class ConfigError(DistmetaError):
    """A setting is unknown, of the wrong type, out of its limits, or at odds with another one."""

    exit_code = 2


class DataError(DistmetaError):
    """Task data is missing, damaged or incomplete."""


class WrongTask(ConfigError):
    """One of several given tasks does not fit the learner.

    Attributes:
        number: of the task, from 0.
        problem: what is wrong with it.
    """

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"task {number}: {problem}")
        self.number, self.problem = number, problem

    def __reduce__(self) -> tuple[type[WrongTask], tuple[int, str]]:
        return type(self), (self.number, self.problem)


class StorageError(DistmetaError):
    """A run directory or checkpoint cannot be written, read or trusted."""


class TrustError(DistmetaError):
    """A checkpoint, an artefact or a run directory names code, or holds pickled objects, that nobody has allowed."""


class ChangedError(DistmetaError):
    """The data, the code or the frozen weights of a resumed run are not those that it was computed with."""


class LeaseError(StorageError):
    """Another driver holds the run directory, or has taken it over from this one."""


class ClusterError(DistmetaError):
    """The cluster cannot be reached, or its workers cannot do the work."""


class TaskError(DistmetaError):
    """The model's code raised an exception on the same tasks wherever they were computed."""


class JobError(DistmetaError):
    """A job did not succeed; the exit code is the job's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NonFiniteError(DistmetaError):
    """A loss or meta-gradient was not finite, and ``outer.on_nonfinite`` is ``stop``, or as many were skipped."""


class Interrupted(DistmetaError):
    """Ctrl-C or SIGTERM ended the run after its state was saved."""

    exit_code = 130
