"""A Sphinx extension for pages that come from elsewhere in the repository.

- The pages of :data:`PAGES` are files that people also read without Sphinx, such as ``cluster/README.md``.
- A block ``{generated} WHAT`` becomes what :mod:`reference` writes from the settings' classes.
- Links are written as they work on a web view of the repository; here they lead to pages, or to copies of files.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from reference import generated

ROOT = Path(__file__).parents[2]

PAGES = {
    "benchmarks": "benchmarks/README.md",
    "changelog": "CHANGELOG.md",
    "cluster-files": "cluster/README.md",
    "contributing": "CONTRIBUTING.md",
}
"""Pages of the documentation, and the files of the repository that they show."""

_BLOCK = re.compile(r"^```\{generated\} +(.+)\n```$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
_CODE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def expand(text: str) -> str:
    """Replace the ``{generated}`` blocks of a page."""
    return _BLOCK.sub(lambda block: generated(block[1].strip()), text)


def relink(text: str, page: str, file: str) -> str:
    """Point the relative links of a file of the repository at pages of the documentation.

    Args:
        text: the file's text.
        page: the page that shows it.
        file: its path in the repository.

    >>> relink("[f](../cluster/README.md#faults) [d](demo.yaml)", "algorithms/x", "docs/algorithms/x.md")
    '[f](../cluster-files.md#faults) [d](demo.yaml)'
    """
    shown = {target: name for name, target in PAGES.items()}

    def target(match: re.Match[str]) -> str:
        path = normpath(str(PurePosixPath(file).parent / match[1]))
        name = shown.get(path, path.removeprefix("docs/").removesuffix(".md") if path.startswith("docs/") else None)
        here = str(PurePosixPath("docs", page).parent)
        if name is None or path.endswith(("/", ".png")) or (path.startswith("docs/") and not path.endswith(".md")):
            return relpath(path, here)
        return relpath(f"docs/{name}.md", here)

    parts = _CODE.split(text)
    return "".join(part if at % 2 else _LINK.sub(target, part) for at, part in enumerate(parts))


def _read(app: Any, page: str, source: list[str]) -> None:
    file = PAGES.get(page, f"docs/{page}.md")
    text = source[0]
    if page in PAGES:
        text = (ROOT / file).read_text(encoding="utf-8")
        app.env.note_dependency(str(ROOT / file))
    source[0] = relink(expand(text), page, file)


def copy_gallery(app: Any, error: Exception | None) -> None:
    """Put the gallery's reports, which are pages of their own, where its links lead."""
    if error is None and app.builder.format == "html":
        shutil.copytree(ROOT / "docs" / "gallery", Path(app.outdir) / "gallery", dirs_exist_ok=True)


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _read)
    app.connect("build-finished", copy_gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
