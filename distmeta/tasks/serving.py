"""What runs in a process that makes tasks for a worker."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from distmeta.errors import DistmetaError
from distmeta.tasks import TASKS
from distmeta.tasks.one_by_one import OneByOneFamily
from distmeta.tasks.processes import GLANCE, Failure
from distmeta.tasks.reading import TaskArrays


def serve(descriptor: int, parent: int) -> None:
    """What such a process does: make tasks until nobody wants any more, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker says when it is over
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):  # the worker has closed it
        try:
            _serve(connection)
        except (EOFError, OSError):
            raise
        except DistmetaError as error:
            connection.send(error)
        except BaseException:
            connection.send(Failure(traceback.format_exc()))


def _serve(connection: Connection) -> None:
    path, kind, values, episodes = pickle.loads(connection.recv_bytes())
    sys.path[:] = path
    family = TASKS[kind]
    assert issubclass(family, OneByOneFamily)
    maker = family.maker(TASKS.options[kind].model_validate(values), episodes)
    connection.send(maker.first("train").digest())
    while True:
        split, ids = connection.recv()
        made: list[TaskArrays | DistmetaError] = []
        for each in ids:
            try:
                made.append(maker.task(split, each))
            except DistmetaError as error:
                made.append(error)
        connection.send(made)


def _end_with(parent: int) -> None:
    """End at once when the parent is gone, whatever the user's code is doing."""
    while os.getppid() == parent:
        time.sleep(GLANCE)
    os._exit(1)
