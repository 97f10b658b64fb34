"""A headless Chromium that tests look at pages with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDE, NARROW = (1280, 900), (360, 740)

CLIPPED = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")].filter((each) => {
  if (!each.checkVisibility()) return false;
  for (let up = each.parentElement; up; up = up.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)) return false;
  return each.getBoundingClientRect().right > wide + 1;
}).map((each) => each.outerHTML.slice(0, 120));
"""
"""Elements that stand out at the right of the page, and not within one that can be scrolled."""

FAINT = """
const numbers = (colour) => { const found = (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  return found.length < 4 ? [...found, 1] : found; };
const part = (v) => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const light = ([r, g, b]) => {
  return .2126 * part(r) + .7152 * part(g) + .0722 * part(b); };
const behind = (each) => { for (; each; each = each.parentElement) {
  const colour = numbers(getComputedStyle(each).backgroundColor); if (colour[3] === 1) return colour; }
  return matchMedia("(prefers-color-scheme: dark)").matches &&
    getComputedStyle(document.documentElement).colorScheme.includes("dark") ? [18, 18, 18, 1] : [255, 255, 255, 1]; };
return [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility() && !each.disabled &&
  [...each.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((each) => {
  const style = getComputedStyle(each);
  const text = numbers(each.closest("svg") ? style.fill : style.color);
  const [more, less] = [light(text), light(behind(each))].sort((a, b) => b - a);
  return [(more + .05) / (less + .05), each.outerHTML.slice(0, 120)];
}).filter(([contrast]) => contrast < 4.5);
"""
"""Texts whose contrast to what is behind them is below 4.5, as WCAG 2.2 demands at level AA."""

UNNAMED = """
const named = (each) => (each.getAttribute("aria-label") || each.getAttribute("alt") || each.getAttribute("title") ||
  each.textContent || "").trim() || (each.labels && each.labels.length) || each.getAttribute("aria-labelledby") ||
  each.getAttribute("aria-hidden") === "true" || each.closest("[aria-hidden=true], [role=img][aria-label]");
return [...document.querySelectorAll("img, svg, canvas, input, button, a, select")].filter((each) => !named(each)).map(
  (each) => each.outerHTML.slice(0, 120));
"""
"""What a screen reader could say nothing of."""


def programs() -> tuple[str, str]:
    """Chromium and its driver; skips the test where there is none."""
    pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("this machine has no chromium with chromedriver")
    return binary, driver


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A driver of a browser that reaches this machine alone, and whose console can be read."""
    binary, driver = programs()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--window-size={WIDE[0]},{WIDE[1]}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def look(browser: Any, size: tuple[int, int], scheme: str) -> None:
    """Have the page at a size of the window, in the dark or in the light, as on a device of this size."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def check_page(browser: Any) -> None:
    """Nothing stands out, nothing is too faint or without a name, and the console is silent."""
    for size in (WIDE, NARROW):
        for scheme in ("light", "dark"):
            look(browser, size, scheme)
            assert browser.execute_script(CLIPPED) == [], (size, scheme)
            assert browser.execute_script(FAINT) == [], (size, scheme)
    assert browser.execute_script(UNNAMED) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [line for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
