"""The gallery's pages in a browser, and that its looks find what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CLIPPED, FAINT, NARROW, UNNAMED, WIDE, check_page, chromium, look

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"

POOR = """<!doctype html><meta name="viewport" content="width=device-width"><style>
@media (prefers-color-scheme: dark) { body { background: #000 } }</style>
<p id="wide" style="width: 600px">wide</p><p id="faint" style="color: #777">faint</p>
<div style="overflow-x: auto; width: 50px"><p style="width: 900px">fits</p></div>
<svg id="unnamed"></svg><svg aria-label="named"></svg><script>console.error("wrong")</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("name", sorted(page.name for page in GALLERY.glob("*.html")))
def test_page(browser: Any, name: str) -> None:
    browser.get((GALLERY / name).as_uri())
    check_page(browser)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_what_is_wrong_is_found(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "poor.html"
    page.write_text(POOR)
    browser.get(page.as_uri())
    look(browser, NARROW, "light")
    (wide,) = browser.execute_script(CLIPPED)
    assert 'id="wide"' in wide
    (faint,) = browser.execute_script(FAINT)
    assert 'id="faint"' in faint[1]
    assert 4 < faint[0] < 4.5
    look(browser, WIDE, "dark")
    assert browser.execute_script(CLIPPED) == []
    assert len(browser.execute_script(FAINT)) == 2  # black on black
    (unnamed,) = browser.execute_script(UNNAMED)
    assert 'id="unnamed"' in unnamed
    assert [line["level"] for line in browser.get_log("browser")] == ["SEVERE"]
