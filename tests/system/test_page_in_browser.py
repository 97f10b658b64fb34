"""The service's page, as a person uses it: drawing and uploading examples, and seeing the prediction change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import check_page, chromium, programs
from job_helpers import free_ports

import distmeta
from distmeta.loading import load_config
from distmeta.runs.learners import load
from distmeta.serving.settings import ServeSettings
from distmeta.serving.starting import serving

pytest.importorskip("starlette")

TOKEN = "a-token-of-sixteen-or-more"
PATIENCE = 30


@pytest.fixture(scope="module")
def address(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a learner that tells strokes of different directions apart."""
    programs()
    tasks = {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2}
    run = {"steps": 50, "meta_batch": 2, "tasks_per_shard": 2, "validate_every": 0}
    parts = {"tasks": tasks, "model": {"kind": "conv4", "filters": 8}, "algorithm": {"name": "protonet"}}
    few = {"run": run, "evaluation": {"tasks": 2, "validation_tasks": 2}, "cluster": {"workers": 0}}
    folder = tmp_path_factory.mktemp("run") / "strokes"
    list(distmeta.train(load_config({**parts, **few}), folder))
    (port,) = free_ports(1)
    with serving(load(folder), ServeSettings(TOKEN, batch=1), port=port) as found:
        yield found


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as started:
        yield started


def until(browser: Any, found: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE).until(lambda _: found())


def draw(browser: Any, canvas: Any, steps: list[tuple[float, float]]) -> None:
    """A stroke from the middle, in shares of the canvas."""
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    chain = ActionChains(browser).move_to_element(canvas).click_and_hold()
    for x, y in steps:
        chain = chain.move_by_offset(int(x * canvas.size["width"]), int(y * canvas.size["height"]))
    chain.release().perform()


ACROSS, UP = [(0.35, 0.0), (-0.7, 0.0)], [(0.0, 0.35), (0.0, -0.7)]


def test_a_person_teaches_it_two_strokes(address: str, browser: Any, tmp_path: Path) -> None:
    find = lambda css: browser.find_element("css selector", css)  # noqa: E731
    shares = lambda: [each.text for each in browser.find_elements("css selector", "#result .bar")]  # noqa: E731
    browser.get(f"{address}/#token={TOKEN}")
    until(browser, lambda: len(browser.find_elements("css selector", "#classes .card")) == 3)
    check_page(browser)
    cards = browser.find_elements("css selector", "#classes .card")
    for card, stroke, name in zip(cards, (ACROSS, UP), ("across", "up"), strict=False):
        field = card.find_element("css selector", "input.name")
        field.clear()
        field.send_keys(name)
        draw(browser, card.find_element("css selector", "canvas"), stroke)
        card.find_element("css selector", ".add").click()
    until(browser, lambda: "learned your examples" in find("#result").text)
    draw(browser, find("#query"), UP)
    until(browser, lambda: len(shares()) == 2)
    assert shares()[0].startswith("up")
    check_page(browser)
    (tmp_path / "up.png").write_bytes(find("#query").screenshot_as_png)
    find("#clear").click()
    draw(browser, find("#query"), ACROSS)
    until(browser, lambda: shares() and shares()[0].startswith("across"))
    # A third class by a file that is what the query was: the prediction of that becomes the third class.
    cards[2].find_element("css selector", "input[type=file]").send_keys(str(tmp_path / "up.png"))
    find("#queryfile").send_keys(str(tmp_path / "up.png"))
    until(browser, lambda: len(shares()) == 3 and shares()[0].startswith("C"))
    assert [each.get_attribute("alt") for each in browser.find_elements("css selector", ".thumbs img")] == [
        f"example 1 of class {name}, click to remove" for name in ("across", "up", "C")
    ]
    check_page(browser)


def test_a_wrong_token_is_asked_for_again(address: str, browser: Any) -> None:
    browser.get(address)
    until(browser, lambda: browser.find_element("id", "login").is_displayed())
    browser.find_element("id", "token").send_keys("not the token at all")
    browser.find_element("id", "enter").click()
    until(browser, lambda: "Authorization" in browser.find_element("id", "problem").text)
    field = browser.find_element("id", "token")
    field.clear()
    field.send_keys(TOKEN)
    browser.find_element("id", "enter").click()
    until(browser, lambda: browser.find_element("id", "work").is_displayed())
    assert browser.find_element("id", "problem").text == ""


def test_what_can_be_asked(address: str, browser: Any) -> None:
    browser.get(f"{address}/docs")
    assert "/adapt" in browser.find_element("tag name", "body").text
    check_page(browser)
