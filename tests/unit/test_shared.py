"""Memory that processes of one host share: found by its address and nowhere else, and gone with its processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from distmeta.transports.shared import Address, Exchange, Row, SharedRows

SIZE = 5000  # not a whole number of pages
ROWS = 3


def filled(number: int) -> np.ndarray:
    return np.arange(SIZE, dtype=np.float32) + number


def test_another_process_reads_and_writes() -> None:
    mine = SharedRows.make()
    assert mine is not None
    for number in range(ROWS):
        mine.write(Row(number, SIZE), filled(number))
    program = (
        "import sys\n"
        "from distmeta.transports.shared import Address, Row, SharedRows\n"
        f"theirs = SharedRows.at(Address({mine.address.path!r}, {mine.address.token!r}))\n"
        f"for number in range({ROWS}):\n"
        f"    theirs.write(Row({ROWS} + number, {SIZE}), 2 * theirs.read(Row(number, {SIZE})))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    for number in range(ROWS):
        assert np.array_equal(mine.read(Row(number, SIZE)), filled(number))
        assert np.array_equal(mine.read(Row(ROWS + number, SIZE)), 2 * filled(number))
    mine.close()
    assert SharedRows.at(mine.address) is None


def test_what_is_read_cannot_be_written_and_outlives_the_rest() -> None:
    mine = SharedRows.make()
    assert mine is not None
    mine.write(Row(0, SIZE), filled(1))
    array = mine.read(Row(0, SIZE))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    mine.close()
    assert np.array_equal(array, filled(1))


@pytest.mark.parametrize("path", ["/proc/self/mem", "/proc/self/maps", "/nowhere", "/dev/null", "/tmp", __file__])
def test_another_file_is_none(path: str) -> None:
    """The path means something else on another host, or for another user."""
    assert SharedRows.at(Address(path, bytes(16))) is None


def test_a_pipe_is_none() -> None:
    ours, theirs = os.pipe()
    try:
        assert SharedRows.at(Address(f"/proc/self/fd/{ours}", bytes(16))) is None
    finally:
        os.close(ours), os.close(theirs)


def test_another_s_token_is_none() -> None:
    mine = SharedRows.make()
    assert mine is not None
    assert SharedRows.at(replace(mine.address, token=bytes(16))) is None
    assert SharedRows.at(None) is None
    mine.close()


def test_a_row_is_used_again_once_its_result_was_taken() -> None:
    exchange = Exchange()
    worker = SharedRows.at(exchange.address)
    assert worker is not None
    assert exchange.publish(filled(0)) == Row(0, SIZE)
    first, second = exchange.take(SIZE), exchange.take(SIZE)
    assert len({0, first.number, second.number}) == 3
    worker.write(first, filled(1))
    worker.write(second, filled(2))
    taken = exchange.collect(first)
    again = exchange.take(SIZE)
    assert again == first
    worker.write(again, filled(3))
    assert np.array_equal(taken, filled(1))
    assert np.array_equal(exchange.collect(second), filled(2))
    assert np.array_equal(worker.read(Row(0, SIZE)), filled(0))
    exchange.close()
