"""The user's own code, ``module:package.factory``: taken apart, its files found and hashed, nothing of it run."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from distmeta.core.hashing import sha256

PREFIX = "module:"

_OURS = Path(__file__).absolute().parents[1]  # in a job it lies beside the user's modules
_SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)  # in the order in which Python looks
_noted: dict[str, set[Path]] = {}


def split(kind: str) -> tuple[str, str]:
    """Name of the Python module and of the factory in it.

    >>> split("module:package.my_model.make"), split("module:my_model:Net.small")
    (('package.my_model', 'make'), ('my_model', 'Net.small'))
    """
    path = kind.removeprefix(PREFIX)
    module, _, factory = path.partition(":") if ":" in path else path.rpartition(".")
    return module, factory


def is_name(kind: str) -> bool:
    """Whether a kind is made of Python's names, as one that can be imported is.

    >>> is_name("module:package.my_model:Net.small"), is_name("module:x; rm -r .y")
    (True, False)
    """
    return all(part.isidentifier() for name in split(kind) for part in name.split("."))


def kinds(values: Any, key: str = "") -> dict[str, str]:
    """Every ``module:`` kind that configuration values name, by dotted key.

    >>> kinds({"seed": 1, "model": {"kind": "module:my_model.make"}})
    {'model.kind': 'module:my_model.make'}
    """
    if isinstance(values, str):
        return {key: values} if values.startswith(PREFIX) else {}
    if isinstance(values, Mapping):
        inner: Iterable[tuple[Any, Any]] = values.items()
    else:
        inner = enumerate(values) if isinstance(values, Sequence) else ()
    found: dict[str, str] = {}
    for name, value in inner:
        found |= kinds(value, f"{key}.{name}" if key else str(name))
    return found


def is_installed(place: Path) -> bool:
    """Whether a file or folder belongs to Python or to what is installed, and is no code of the user's own."""
    libraries = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    if not place.is_absolute() or {"site-packages", "dist-packages"} & set(place.parts):
        return True
    return any(place.is_relative_to(library) for library in libraries)


def is_own(path: Path, folder: Path) -> bool:
    """Whether a module's file is the user's own code below this folder."""
    return path.is_relative_to(folder) and not path.is_relative_to(_OURS) and not is_installed(path)


def folder_of(module: str) -> Path | None:
    """The folder of ``sys.path`` where a module's top-level package or file lies.

    ``None`` where it is installed, built into Python, typed into an interpreter, or nowhere.
    """
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None and top != "__main__":
        with importable(os.getcwd()):
            try:
                spec = importlib.util.find_spec(top)
            except (ImportError, ValueError):
                spec = None
        if spec is not None:
            file = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
    if file is None:
        return None
    path = lexical(file)  # a package's __init__, its folder where it has none, or a module's file
    folder = path.parents[1] if path.stem == "__init__" else path.parent
    return None if is_installed(path) else folder


def file_of(folder: Path, module: str) -> Path | None:
    """The file that Python would load for a module below this folder; none for a folder without ``__init__.py``."""
    place = folder.joinpath(*module.split("."))
    candidates = [*(place / f"__init__{suffix}" for suffix in _SUFFIXES), *(Path(f"{place}{s}") for s in _SUFFIXES)]
    return next((path for path in candidates if path.is_file()), None)


def reached(folder: Path, module: str) -> dict[str, Path]:
    """The files below a folder that importing a module can load, by module: read off the sources, nothing is run.

    Follows every ``import`` statement, those inside functions too; not what a program imports by a computed name.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        parts = waiting.pop().split(".")
        for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
            path = None if name in found else file_of(folder, name)
            if path is not None and is_own(path, folder):
                found[name] = path
                waiting += _imports(path, name)
    return found


def hashes(kind: str, also: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of the user's files behind a kind, by their path below their folder; none where it is installed.

    Args:
        kind: ``module:package.factory``.
        also: paths to hash beside those that :func:`reached` finds, where these exist.
    """
    module, _ = split(kind)
    folder = folder_of(module)
    if folder is None:
        return {}
    if module == "__main__":
        module = Path(str(sys.modules["__main__"].__file__)).stem
    others = {path for name in also if is_own(path := lexical(folder / name), folder) and path.is_file()}
    files = {*reached(folder, module).values(), *others}
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in sorted(files)}


def code_of(values: Any, also: Iterable[str] = ()) -> dict[str, str]:
    """:func:`hashes` of all kinds that configuration values name."""
    found: dict[str, str] = {}
    for kind in kinds(values).values():
        found |= hashes(kind, also)
    return found


def noted(kind: str) -> list[str]:
    """Files that a kind's import, call and use have loaded in this process, beside those that its sources show."""
    folder = folder_of(split(kind)[0])
    if folder is None:
        return []
    files = _noted.get(kind, set()) | _files(_own_imports.names.get(folder, ()))
    return [path.relative_to(folder).as_posix() for path in sorted(files) if is_own(path, folder)]


@contextmanager
def noting(kind: str) -> Iterator[None]:
    """Note which files are loaded meanwhile, for :func:`noted`."""
    before = set(sys.modules)
    try:
        yield
    finally:
        _noted.setdefault(kind, set()).update(_files(set(sys.modules) - before))


def _files(modules: Iterable[str]) -> set[Path]:
    files = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    return {lexical(file) for file in files if isinstance(file, str)}


class _OwnImports(MetaPathFinder):
    """Notes what the user's code imports while distmeta calls it, and finds it in the folder where that code lies.

    A network may import inside ``forward``, when its folder is no longer on ``sys.path``. What anybody else imports is
    none of its business.
    """

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}

    def serve(self, folder: Path) -> None:
        """From now on, for the code in this folder."""
        self.names.setdefault(folder, set())
        if self not in sys.meta_path:  # before sys.path, but after finders that watch over all imports
            place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
            sys.meta_path.insert(place, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module of the folder, where code in it asks; packages find their own parts."""
        callers = _callers()
        folders = [folder for folder in self.names if any(name.startswith(f"{folder}{os.sep}") for name in callers)]
        for folder in folders:
            self.names[folder].add(fullname)
        return PathFinder.find_spec(fullname, list(map(str, folders)), target) if folders and path is None else None


def _callers() -> list[str]:
    """Source files of the code that is importing something and was called by distmeta; none where it was not."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    callers: list[str] = []
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(f"{_OURS}{os.sep}"):
            return callers
        callers.append(name)
        frame = frame.f_back
    return []


def _is_machinery(file: str) -> bool:
    """Whether a frame at the end of the stack only carries out an import: Python's frames, and those of finders."""
    return file.startswith(("<frozen importlib", f"{_OURS}{os.sep}")) or file == importlib.__file__


_own_imports = _OwnImports()


def keep_importable(kind: str) -> None:
    """Let the code of a kind import from its folder whenever distmeta calls it, and note what it does."""
    folder = folder_of(split(kind)[0])
    if folder is not None:
        _own_imports.serve(folder)


def lexical(path: str | Path) -> Path:
    """The absolute path; links stay, since a linked file counts where the link lies."""
    return Path(os.path.abspath(path))


@contextmanager
def importable(folder: str) -> Iterator[None]:
    """The folder's modules can be imported, as by ``python -m`` but not by an installed command."""
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _imports(path: Path, name: str) -> Iterator[str]:
    """Modules that a source file names in import statements; ``from a import b`` may mean ``a.b``."""
    if path.suffix != ".py":
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # Python will say so where it is imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")
