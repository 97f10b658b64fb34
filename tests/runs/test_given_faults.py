"""Files of given tasks that are wrong, or typed otherwise than the run's own: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import distmeta.tasks
from distmeta.errors import ConfigError, DataError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.given.joining import one_support
from distmeta.runs.inference import MetaLearner
from distmeta.runs.predictions import predict_files

HEADER = ["task", "x", "site", "flag", "code", "y"]
SUPPORT = [["m1", 1.5, 1, True, "001", 10.0], ["m1", 2.0, 3, False, "002", 30.0], ["m1", 0.5, 2, True, "000", 20.0]]
QUERY = [["m1", 1.0, 1, True, "001"], ["m1", 1.0, 2, False, "002"], ["m1", 1.0, 3, True, "000"]]
COLUMNS = {"task": "task", "target": "y", "shots": 2, "queries": 2}


def csv_file(path: Path, rows: list[list[Any]], header: list[str] | None = None) -> str:
    lines = [header or HEADER[: len(rows[0])], *rows]
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in lines))
    return str(path)


def untrained(**values: Any) -> MetaLearner:
    base = {"model": {"kind": "mlp", "hidden": [8]}, "algorithm": {"name": "maml", "inner_lr": 0.05}}
    config = distmeta.tasks.fit_family(load_config({**base, **values}))
    return MetaLearner(config, Assembly(config).initial_meta())


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> MetaLearner:
    rows = [
        [f"m{task}", task * 0.1 + row, row % 3 + 1, row % 2 == 0, f"00{row % 3}", 10.0 * (row % 3) + task]
        for task in range(12)
        for row in range(6)
    ]
    path = csv_file(tmp_path_factory.mktemp("table") / "all.csv", rows)
    return untrained(tasks={"kind": "table", "path": path, **COLUMNS, "categories": ["site", "flag", "code"]})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> MetaLearner:
    rows = [[f"m{task}", task * 0.1 + row, row % 3] for task in range(12) for row in range(6)]
    path = csv_file(tmp_path_factory.mktemp("classes") / "all.csv", rows, ["task", "x", "y"])
    tasks = {"kind": "table", "path": path, **COLUMNS, "objective": "cross_entropy", "classes": "all"}
    return untrained(tasks=tasks)


@pytest.fixture(scope="module")
def sinusoid() -> MetaLearner:
    return untrained(tasks={"kind": "sinusoid"})


@pytest.fixture(scope="module")
def glyphs() -> MetaLearner:
    tasks = {"kind": "glyphs", "ways": 3, "shots": 2, "queries": 2}
    return untrained(tasks=tasks, model={"kind": "conv4", "filters": 4}, algorithm={"name": "protonet"})


def predictions(learner: MetaLearner, support: str, query: str, folder: Path) -> list[Any]:
    predict_files(learner, support, query, folder / "out.parquet")
    found: list[Any] = pq.read_table(folder / "out.parquet").column("prediction").to_pylist()
    return found


def parquet(path: Path, rows: list[list[Any]], kinds: dict[str, Any]) -> str:
    columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=False))
    as_text = {name: list(map(str, columns[name])) if name in ("site", "flag") else columns[name] for name in columns}
    pq.write_table(pa.table({**as_text, **{name: pa.array(columns[name], kinds[name]) for name in kinds}}), path)
    return str(path)


# Categories ---------------------------------------------------------------------------------------------------------


def test_categories_of_csv_files_are_text_as_in_training(learner: MetaLearner, tmp_path: Path) -> None:
    texts = parquet(tmp_path / "s.parquet", SUPPORT, {}), parquet(tmp_path / "q.parquet", QUERY, {})
    wanted = predictions(learner, *texts, tmp_path)
    assert len(set(wanted)) == 3
    support, query = csv_file(tmp_path / "s.csv", SUPPORT), csv_file(tmp_path / "q.csv", QUERY)
    assert predictions(learner, support, query, tmp_path) == wanted
    typed = {"site": pa.int64(), "flag": pa.bool_()}
    given = parquet(tmp_path / "t.parquet", SUPPORT, typed), parquet(tmp_path / "u.parquet", QUERY, typed)
    assert predictions(learner, *given, tmp_path) == wanted
    for at, row in enumerate(QUERY):  # which no other row of the file changes
        assert predictions(learner, support, csv_file(tmp_path / "one.csv", [row]), tmp_path) == [
            pytest.approx(wanted[at], rel=1e-6)
        ]


def test_export_reads_them_likewise(learner: MetaLearner, tmp_path: Path) -> None:
    one = learner.support_of(*one_support(learner, csv_file(tmp_path / "s.csv", SUPPORT)))
    other = learner.support_of(*one_support(learner, parquet(tmp_path / "s.parquet", SUPPORT, {})))
    assert torch.equal(one.data["x"], other.data["x"])
    assert one.data["x"][:, 1:].sum() == 9  # a category each in every row


@pytest.mark.parametrize("site", [[1, 3], [1.0, 3.0], ["1", "3"], np.array([1, 3]), np.array([1.0, 3.0])])
@pytest.mark.parametrize("flag", [[True, False], ["True", "False"], np.array([True, False])])
def test_columns_in_python_match_what_is_written_so(learner: MetaLearner, site: Any, flag: Any) -> None:
    given: Any = {"x": [1.0, 1.0], "site": site, "flag": flag, "code": ["001", "002"]}
    x = learner.inputs(given, "x")["x"]
    found = torch.stack([x[:, 1:4].argmax(1), x[:, 4:6].argmax(1), x[:, 6:9].argmax(1)], 1)
    assert x[:, 1:].sum() == 6
    assert found.tolist() in ([[0, 1, 1], [2, 0, 2]], [[0, 0, 1], [2, 1, 2]])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("code", 1, r"\['code'\], row 2: it is not clear which category 1, of type int, is; .* '001'"),
        ("flag", 1, r"\['flag'\], row 2: it is not clear .* 'False', 'True'"),
        ("site", True, r"\['site'\], row 2: it is not clear .* '1'"),
        ("site", None, r"\['site'\], row 2: nothing stands there"),
        ("site", float("nan"), r"\['site'\], row 2: nothing stands there"),
        ("site", "", r"\['site'\], row 2: nothing stands there"),
    ],
)
def test_unclear_categories_are_refused(learner: MetaLearner, column: str, value: Any, message: str) -> None:
    given: dict[str, Any] = {"x": [1.0, 1.0], "site": ["1", "1"], "flag": ["True"] * 2, "code": ["001", "002"]}
    given[column][1] = value
    with pytest.raises(ConfigError, match=message):
        learner.inputs(given, "x")


@pytest.mark.parametrize("site", [9, 9.0, "9", "north"])
def test_a_category_that_training_had_not_is_zeros(learner: MetaLearner, site: Any) -> None:
    given: Any = {"x": [1.0], "site": [site], "flag": ["True"], "code": ["001"]}
    assert learner.inputs(given, "x")["x"][0, 1:4].tolist() == [0, 0, 0]


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "column", "value", "message"),
    [
        ("s", "site", "", r"s\.csv, row 2: nothing stands under 'site'"),
        ("q", "code", "", r"q\.csv, row 2: nothing stands under 'code'"),
        ("s", "task", "", r"s\.csv, row 2: nothing stands under 'task', the column of tasks"),
        ("q", "task", "", r"q\.csv, row 2: nothing stands under 'task', the column of tasks"),
        ("q", "x", "", r"q\.csv, row 2: nothing stands under 'x'"),
        ("q", "x", "inf", r"q\.csv, row 2, column 'x': inf is not a finite number"),
        ("q", "x", "two", r"q\.csv, row 2, column 'x': 'two' is text"),
        ("s", "y", "high", r"s\.csv, row 2, column 'y': 'high' is text"),
        ("s", "y", "inf", r"s\.csv, row 2, column 'y': inf is not a finite number"),
        ("s", "y", "nan", r"s\.csv, row 2: nothing stands under 'y'"),
        ("s", "y", "", r"s\.csv, row 2: nothing stands under 'y'"),
    ],
)
def test_wrong_cells_are_named(
    learner: MetaLearner, side: str, column: str, value: str, message: str, tmp_path: Path
) -> None:
    files = {"s": [list(row) for row in SUPPORT], "q": [list(row) for row in QUERY]}
    files[side][1][HEADER.index(column)] = value
    support, query = (csv_file(tmp_path / f"{name}.csv", rows) for name, rows in files.items())
    with pytest.raises(DataError, match=message):
        predict_files(learner, support, query, tmp_path / "out.parquet")


CLASSES = [["m1", 1.0, 0], ["m1", 2.0, 1], ["m1", 3.0, 2]]


@pytest.mark.parametrize(
    ("side", "value", "message"),
    [
        ("s", "7", r"s\.csv, row 2: task 'm1' has the class '7', which no training task has; there are 0, 1, 2"),
        ("q", "7", r"q\.csv, row 2: task 'm1' has the class '7', which no training task has; there are 0, 1, 2"),
        ("s", "", r"s\.csv, row 2: nothing stands under 'y'"),
        ("q", "", r"q\.csv, row 2: nothing stands under 'y'"),
    ],
)
def test_wrong_classes_are_named(shared: MetaLearner, side: str, value: str, message: str, tmp_path: Path) -> None:
    files = {"s": [list(row) for row in CLASSES], "q": [list(row) for row in CLASSES]}
    files[side][1][2] = value
    support, query = (csv_file(tmp_path / f"{name}.csv", rows, ["task", "x", "y"]) for name, rows in files.items())
    with pytest.raises(DataError, match=message):
        predict_files(shared, support, query, tmp_path / "out.parquet")


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.float64()])
def test_classes_of_any_type_are_those_of_training(shared: MetaLearner, kind: Any, tmp_path: Path) -> None:
    y = pa.array([0, 1, 2]).cast(kind) if kind != pa.string() else pa.array(["0", "1", "2"])
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "y": y}), tmp_path / "s.parquet")
    place = str(tmp_path / "s.parquet")
    assert "accuracy" in predict_files(shared, place, place, tmp_path / "out.parquet")


@pytest.mark.parametrize("lacking", ["s", "q"])
def test_a_file_without_the_column_of_tasks_is_named(learner: MetaLearner, lacking: str, tmp_path: Path) -> None:
    files = {"s": (SUPPORT, HEADER), "q": (QUERY, HEADER[:5])}
    rows, header = files[lacking]
    files[lacking] = [row[1:] for row in rows], header[1:]
    support, query = (csv_file(tmp_path / f"{name}.csv", *each) for name, each in files.items())
    with pytest.raises(DataError, match=rf"{lacking}\.csv has no column 'task', and .* has one, with 'm1'"):
        predict_files(learner, support, query, tmp_path / "out.parquet")


def test_names_of_tasks_match_whatever_their_type(learner: MetaLearner, sinusoid: MetaLearner, tmp_path: Path) -> None:
    support = csv_file(tmp_path / "s.csv", [[1, *row[1:]] for row in SUPPORT])
    query = csv_file(tmp_path / "q.csv", [["1.0", *row[1:]] for row in QUERY])
    assert len(predictions(learner, support, query, tmp_path)) == 3
    x = np.ones((4, 1), np.float32)
    np.savez(tmp_path / "s.npz", x=x, y=x, task=np.array([1, 1, 2, 2]))
    np.savez(tmp_path / "q.npz", x=x, task=np.array([1.0, 1.0, 2.0, 2.0]))
    assert len(predictions(sinusoid, str(tmp_path / "s.npz"), str(tmp_path / "q.npz"), tmp_path)) == 4


# What is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["s.csv", "q.csv", "link.csv"])
def test_inputs_are_never_overwritten(learner: MetaLearner, which: str, tmp_path: Path) -> None:
    support, query = csv_file(tmp_path / "s.csv", SUPPORT), csv_file(tmp_path / "q.csv", QUERY)
    (tmp_path / "link.csv").symlink_to(query)
    before = (tmp_path / which).read_bytes()
    with pytest.raises(DataError, match=rf"--out = .*{which} is what --\w+ = .* reads; name another file"):
        predict_files(learner, support, query, tmp_path / which)
    assert (tmp_path / which).read_bytes() == before


def test_a_folder_is_refused_before_anything_is_read(learner: MetaLearner, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--out = .* is a folder; name a file to write"):
        predict_files(learner, "nowhere.csv", "nowhere.csv", tmp_path)


# Arrays -------------------------------------------------------------------------------------------------------------

X, Y = np.linspace(-1, 1, 6, dtype=np.float32)[:, None], np.arange(6.0)[:, None]


def truncated(path: Path) -> None:
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-40])


def damaged(path: Path) -> None:
    np.savez_compressed(path, x=np.random.default_rng(0).random((400, 1)), y=np.zeros((400, 1)))
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


def single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def saved(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **{"x": X, "y": Y, **arrays})


ARRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated file": (truncated, r"bad\.npz cannot be read: .*expected a NumPy file"),
    "a damaged file": (damaged, r"bad\.npz cannot be read: .*expected a NumPy file"),
    "a text": (lambda path: path.write_bytes(b"text"), r"bad\.npz cannot be read: it is no NumPy file"),
    "a single array": (single, r"bad\.npz is a single array \(\.npy\)"),
    "tasks of two dimensions": (saved(task=np.zeros((6, 2))), r"bad\.npz: the array 'task' has the shape \(6, 2\)"),
    "tasks without a name": (saved(task=[1, 1, np.nan, 1, 1, 1]), r"bad\.npz, row 3 of the array 'task': nothing"),
    "no rows": (saved(x=X[:0], y=Y[:0]), r"bad\.npz has no rows"),
    "complex targets": (saved(y=Y + 1j), r"bad\.npz: the array 'y' holds complex numbers"),
    "texts as targets": (saved(y=np.full(6, "high")), r"bad\.npz: the array 'y' holds values of type <U4"),
    "inputs that are not finite": (saved(x=np.where(X > 0.9, np.inf, X)), r"bad\.npz, row 6 of the array 'x'"),
    "inputs of another shape": (saved(x=np.hstack([X, X])), r"bad\.npz: x\w* should have the shape"),
}


@pytest.mark.parametrize("side", ["support", "query"])
@pytest.mark.parametrize("what", ARRAYS)
def test_wrong_arrays_are_named(what: str, side: str, sinusoid: MetaLearner, tmp_path: Path) -> None:
    spoil, message = ARRAYS[what]
    spoil(tmp_path / "bad.npz")
    np.savez(tmp_path / "good.npz", x=X, y=Y)
    given = {
        "support": str(tmp_path / "good.npz"),
        "query": str(tmp_path / "good.npz"),
        side: str(tmp_path / "bad.npz"),
    }
    with pytest.raises(DataError, match=message):
        predict_files(sinusoid, given["support"], given["query"], tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


def test_one_hot_classes_are_refused_and_columns_of_classes_are_not(glyphs: MetaLearner, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((6, 1, 28, 28)).astype(np.float32), np.arange(6) % 3
    np.savez(tmp_path / "hot.npz", x=x, y=np.eye(3)[y])
    np.savez(tmp_path / "column.npz", x=x, y=y[:, None])
    with pytest.raises(DataError, match=r"hot\.npz: the array 'y' has the shape \(6, 3\); .* y\.argmax\(1\)"):
        predict_files(glyphs, str(tmp_path / "hot.npz"), str(tmp_path / "column.npz"), tmp_path / "out.parquet")
    place = str(tmp_path / "column.npz")
    assert predict_files(glyphs, place, place, tmp_path / "out.parquet")["queries"] == 6
