"""Memory that processes of one host share: found by its address and nowhere else, and gone with its processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from distmeta.workers.shared import LARGEST_SHARED, Exchange, SharedAddress, SharedRow, SharedRows

SIZE = 5000  # not a whole number of pages
ROWS = 3


def filled(number: int) -> np.ndarray:
    return np.arange(SIZE, dtype=np.float32) + number


def made() -> SharedRows:
    mine = SharedRows.make()
    assert mine is not None
    return mine


def added(mine: SharedRows, size: int = SIZE) -> SharedRow:
    row = mine.add(size)
    assert row is not None
    return row


def test_another_process_reads_and_writes() -> None:
    mine = made()
    rows = [added(mine) for _ in range(2 * ROWS)]
    for number in range(ROWS):
        mine.write(rows[number], filled(number))
    program = (
        "from distmeta.workers.shared import SharedAddress, SharedRow, SharedRows\n"
        f"theirs, rows = SharedRows.at({mine.address!r}), {rows!r}\n"
        f"for number in range({ROWS}):\n"
        f"    theirs.write(rows[{ROWS} + number], 2 * theirs.read(rows[number]))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    for number in range(ROWS):
        assert np.array_equal(mine.read(rows[number]), filled(number))
        assert np.array_equal(mine.read(rows[ROWS + number]), 2 * filled(number))
    mine.close()
    assert SharedRows.at(mine.address) is None


def fill(address: SharedAddress, rows: list[SharedRow], value: int) -> None:
    theirs = SharedRows.at(address)
    assert theirs is not None
    for row in rows:
        theirs.write(row, np.full(row.size, value, np.float32))


def test_many_write_at_the_same_time() -> None:
    """Nobody but the owner changes the memory's length, so nobody cuts off what another one has written."""
    mine = made()
    rows = {value: [added(mine) for _ in range(20)] for value in range(1, 5)}
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=fill, args=(mine.address, each, value)) for value, each in rows.items()]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for value, each in rows.items():
        assert all((mine.read(row) == value).all() for row in each)
    descriptor = int(mine.address.path.rpartition("/")[2])
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)


def test_what_is_read_cannot_be_written_and_outlives_the_rest() -> None:
    mine = made()
    row = added(mine)
    mine.write(row, filled(1))
    array = mine.read(row)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    mine.close()
    assert np.array_equal(array, filled(1))


@pytest.mark.parametrize("path", ["/proc/self/mem", "/proc/self/maps", "/nowhere", "/dev/null", "/tmp", __file__])
def test_another_file_is_none(path: str) -> None:
    """The path means something else on another host, or for another user."""
    assert SharedRows.at(SharedAddress(path, bytes(16))) is None


def test_a_pipe_is_none() -> None:
    ours, theirs = os.pipe()
    try:
        assert SharedRows.at(SharedAddress(f"/proc/self/fd/{ours}", bytes(16))) is None
    finally:
        os.close(ours), os.close(theirs)


def test_another_s_token_is_none() -> None:
    mine = made()
    assert SharedRows.at(replace(mine.address, token=bytes(16))) is None
    assert SharedRows.at(None) is None
    mine.close()


def test_a_system_without() -> None:
    """Vectors go another way then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "memfd_create", lambda *_: (_ for _ in ()).throw(PermissionError()))
        exchange = Exchange()
    assert exchange.address is None
    assert exchange.publish("theta", filled(0)) is None
    exchange.close()


def test_results_of_workers() -> None:
    exchange = Exchange()
    worker = SharedRows.at(exchange.address)
    assert worker is not None
    published = exchange.publish("theta", filled(0))
    assert published is not None
    assert exchange.publish("theta", filled(5)) == published
    first, second, other = exchange.take(1, SIZE), exchange.take(1, SIZE), exchange.take(2, SIZE)
    assert first is not None
    assert second is not None
    assert other is not None
    assert len({published, first, second, other}) == 4
    worker.write(first, filled(1))
    worker.write(second, filled(2))
    taken = exchange.collect(first)
    exchange.give_back(1, first)
    assert exchange.take(2, SIZE) != first, "a row is one worker's alone"
    assert exchange.take(1, 2 * SIZE) != first, "and of one size"
    assert exchange.take(1, SIZE) == first
    worker.write(first, filled(3))
    assert np.array_equal(taken, filled(1))
    assert np.array_equal(exchange.collect(second), filled(2))
    assert np.array_equal(worker.read(published), filled(5))
    exchange.close()


@pytest.mark.parametrize("size", [0, LARGEST_SHARED // 4 + 1])
def test_vectors_that_go_another_way(size: int) -> None:
    exchange = Exchange()
    assert exchange.publish("theta", np.zeros(size, np.float32)) is None
    exchange.close()
