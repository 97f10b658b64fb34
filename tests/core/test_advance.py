"""How far long work is, in the log."""

from __future__ import annotations

import logging

import pytest

from distmeta.core.advance import LoggedAdvance


def test_it_says_how_far_how_fast_and_how_long_still(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr("distmeta.core.advance.time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO):
        known, unknown = (LoggedAdvance(logging.getLogger("somewhere"), "reading t.csv", "rows") for _ in range(2))
        for seconds, done in ((9, 900), (10, 1000), (19, 1900), (20, 2000), (40, 4000)):
            now[0] = 100.0 + seconds
            known(done, 4000)
            unknown(done)
    assert [record.getMessage() for record in caplog.records] == [
        "reading t.csv: 1,000 of 4,000 rows, 100 a second, 30 s left",
        "reading t.csv: 1,000 rows, 100 a second",
        "reading t.csv: 2,000 of 4,000 rows, 100 a second, 20 s left",
        "reading t.csv: 2,000 rows, 100 a second",
        "reading t.csv: 4,000 rows, 100 a second",
    ]
