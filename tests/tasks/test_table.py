"""Tables: what an episode holds, what was learned from the training tasks, and what is refused."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from task_helpers import flat

from distmeta.core.records import SPLITS
from distmeta.data.splits import split_names
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.base import Episode
from distmeta.tasks.table import ROWS_FILE, Table

CPU = torch.device("cpu")
TASKS, ROWS = 40, 12


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))


def table(**columns: Any) -> pa.Table:
    """480 rows of 40 tasks, shuffled: ``x`` tells task and row, ``y`` too."""
    order = np.random.default_rng(0).permutation(TASKS * ROWS)
    task, row = order // ROWS, order % ROWS
    plain = {
        "site": [f"site-{number:02d}" for number in task],
        "x": task + row / 100,
        "wide": task * 10.0 - 3,
        "kind": np.where(task % 3 == 0, "dry", np.where(task % 3 == 1, "wet", "cold")).tolist(),
        "when": row.astype(np.int64),
        "y": 100.0 + task + row / 100,
        "label": np.array(["no", "yes", "perhaps"])[row % 3].tolist(),
    }
    return pa.table({**plain, **columns})


def write(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(content, path)
    else:
        pq.write_table(content, path, row_group_size=50)
    return path


def options(path: Path | str, **settings: Any) -> Any:
    given = {"task": "site", "target": "y", "features": ["x", "wide"], "shots": 3, "queries": 4, **settings}
    return Table.Options(kind="table", path=str(path), **given)  # type: ignore[arg-type]


def episodes(shots: int = 3, queries: int = 4, ways: int | None = None, seed: int = 0) -> Mapping[Any, Episode]:
    return {split: Episode(shots, queries, seed, ways) for split in SPLITS}


def opened(path: Path | str, ways: int | None = None, sizes: tuple[int, int] = (3, 4), **settings: Any) -> Table:
    chosen = options(path, ways=ways, shots=sizes[0], queries=sizes[1], **settings)
    return Table(chosen, episodes(*sizes, ways), CPU)


def tasks_of(names: list[str], **splits: Any) -> dict[str, set[str]]:
    chosen = options("any", **splits).splits
    return {split: {names[at] for at in found} for split, found in split_names(names, chosen, "t", "task").items()}


NAMES = [f"site-{number:02d}" for number in range(TASKS)]


def test_a_damaged_store_is_found(tmp_path, monkeypatch):
    chosen = options(write(tmp_path / "t.parquet", table()), features=["x", "kind"])
    before = Table.contents(chosen)
    store = Table.holdings(chosen)[ROWS_FILE]
    for small in (2**30, 0):  # read each time, or once for a state of the file
        monkeypatch.setattr("distmeta.data.verified.SMALL", small)
        assert Table.contents(chosen) == before
        whole = store.read_bytes()
        at = whole.index(np.float64(100.0).tobytes())
        store.write_bytes(whole[: at + 6] + b"\x07" + whole[at + 7 :])
        with pytest.raises(DataError, match="does not match the hash it was written with"):
            Table.contents(chosen)
        store.write_bytes(whole)


# Episodes ---------------------------------------------------------------------------------------------------------


def test_an_episode_is_rows_of_one_task(tmp_path):
    path = write(tmp_path / "t.parquet", table())
    family = opened(path, standardise=False)
    of_split = tasks_of(NAMES)
    for split in SPLITS:
        batch = family.sample(split, range(30))
        assert batch.support["x"].shape == (30, 3, 2)
        assert batch.query["y"].shape == (30, 4, 1)
        assert batch.support["x"].dtype == batch.support["y"].dtype == torch.float32
        x = torch.cat([batch.support["x"], batch.query["x"]], 1)
        y = torch.cat([batch.support["y"], batch.query["y"]], 1)
        assert torch.allclose(y[..., 0], x[..., 0] + 100, atol=1e-4)
        assert torch.allclose(x[..., 1], x[..., 0].floor() * 10 - 3)
        for number in range(30):
            rows = (x[number, :, 0] * 100).round().long()
            assert len(set(rows.tolist())) == 7  # support and query share no row
            (task,) = set((rows // 100).tolist())
            assert family.name(split, number) == f"site-{task:02d}"
            assert f"site-{task:02d}" in of_split[split]


def test_every_task_comes_once_an_epoch(tmp_path):
    family = opened(write(tmp_path / "t.parquet", table()))
    train = sorted(tasks_of(NAMES)["train"])
    count = len(train)
    epochs = [[family.name("train", epoch * count + at) for at in range(count)] for epoch in range(3)]
    assert all(sorted(epoch) == train for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = opened(tmp_path / "t.parquet")
    assert again.name("train", 2 * count + 5) == epochs[2][5]
    assert torch.equal(flat(family.sample("train", [count + 1, 3]))[1], flat(again.sample("train", [3]))[0])


def test_the_first_rows_by_a_column_are_the_support_set(tmp_path):
    dates = pa.array(np.datetime64("2024-01-01", "s") - table()["when"].to_numpy().astype("timedelta64[D]"))
    content = table(backwards=dates)
    for name, sign in (("when", 1), ("backwards", -1)):
        family = opened(write(tmp_path / "t.parquet", content), order=name, standardise=False)
        batch = family.sample("train", range(20))
        rows = ((batch.support["x"][..., 0] % 1) * 100).round().long()
        assert (rows == torch.tensor([0, 1, 2] if sign == 1 else [11, 10, 9])).all()
        later = ((batch.query["x"][..., 0] % 1) * 100).round().long()
        assert ((later > 2) if sign == 1 else (later < 9)).all()
        assert len(set(map(tuple, later.tolist()))) > 10  # drawn among all that come after


def test_classes_of_each_task_are_numbered_anew(tmp_path):
    path = write(tmp_path / "t.parquet", table())
    family = opened(path, 2, (1, 2), target="label", objective="cross_entropy", standardise=False)
    batch = family.sample("train", range(40))
    assert batch.support["y"].tolist() == [[0, 1]] * 40
    assert batch.query["y"].tolist() == [[0, 0, 1, 1]] * 40
    label = ((batch.support["x"][..., 0] % 1) * 100).round().long() % 3
    queried = ((batch.query["x"][..., 0] % 1) * 100).round().long() % 3
    assert torch.equal(queried, label.repeat_interleave(2, 1))
    assert len(set(map(tuple, label.tolist()))) == 6  # any class may be any number


def test_classes_that_tasks_share_keep_their_numbers(tmp_path):
    path = write(tmp_path / "t.csv", table())
    shared = {"target": "label", "objective": "cross_entropy", "classes": "all", "standardise": False}
    for ways in (None, 3):
        family = opened(path, ways, (2, 2), **shared)
        batch = family.sample("train", range(10))
        rows = ((batch.query["x"][..., 0] % 1) * 100).round().long() % 3
        assert torch.equal(batch.query["y"], torch.tensor([0, 2, 1])[rows])  # no, perhaps, yes
        assert Table.spec(options(path, ways=ways, **shared)).outputs == 3
        assert batch.query["y"].shape == (10, 2 if ways is None else 6)
    with pytest.raises(ConfigError, match=r"tasks\.ways = 2: .* 3 classes"):
        opened(path, 2, (2, 2), **shared)


# What is learned --------------------------------------------------------------------------------------------------


def test_scales_are_those_of_the_training_tasks(tmp_path):
    content = table(constant=np.full(TASKS * ROWS, 7.0), pair=[[number, -1.0] for number in range(TASKS * ROWS)])
    path = write(tmp_path / "t.parquet", content)
    chosen = options(path, features=["x", "constant", "pair"])
    fitted = Table.fit(chosen, episodes())
    train = np.isin(content["site"].to_pylist(), list(tasks_of(NAMES)["train"]))
    pair = np.array(content["pair"].to_pylist())[train]
    x, y = content["x"].to_numpy()[train], content["y"].to_numpy()[train]
    by_name = {each["name"]: each for each in fitted["columns"]}
    np.testing.assert_allclose([by_name["x"]["mean"][0], by_name["x"]["scale"][0]], [x.mean(), x.std()], rtol=1e-12)
    np.testing.assert_allclose(by_name["pair"]["mean"], pair.mean(0), rtol=1e-12)
    assert by_name["constant"]["scale"] == [1.0]
    assert by_name["pair"]["scale"][1] == 1.0
    np.testing.assert_allclose([fitted["mean"][0], fitted["scale"][0]], [y.mean(), y.std()], rtol=1e-12)
    batch = Table(chosen, episodes(), CPU).sample("train", [0])
    assert batch.support["x"].shape == (1, 3, 4)
    raw = opened(path, features=["x", "constant", "pair"], standardise=False).sample("train", [0])
    expected = (raw.support["x"][0, :, 0].double() - x.mean()) / x.std()
    assert torch.allclose(batch.support["x"][0, :, 0].double(), expected, atol=1e-5)


def test_categories_are_those_of_the_training_tasks(tmp_path):
    of_split = tasks_of(NAMES)
    sites = table()["site"].to_pylist()
    kinds = ["odd" if site in of_split["test"] else "wet" if int(site[-2:]) % 2 else "dry" for site in sites]
    path = write(tmp_path / "t.parquet", table(kind=kinds, number=[len(kind) for kind in kinds]))
    family = opened(path, features=["kind", "x", "number"], categories=["number"])
    assert [each.get("categories") for each in Table.fit(family._options, {})["columns"]] == [
        None,
        ["dry", "wet"],
        ["3"],
    ]
    hot = family.sample("train", range(20)).support["x"][..., 1:]
    odd = torch.tensor([int(family.name("train", number)[-2:]) % 2 for number in range(20)])
    assert torch.equal(hot[:, 0, :2], torch.nn.functional.one_hot(odd, 2).float())
    unknown = family.sample("test", range(5)).support["x"][..., 1:]
    assert torch.equal(unknown, torch.tensor([0.0, 0.0, 1.0]).expand(5, 3, 3))


def test_users_give_columns_and_get_their_own_unit(tmp_path):
    path = write(tmp_path / "t.parquet", table())
    chosen = options(path, features=["x", "kind"])
    chosen = chosen.with_fitted(Table.fit(chosen, {}))
    fitted = chosen.fitted
    rows = {"kind": ["wet", "unheard of"], "x": torch.tensor([3.0, 4.0]), "more": [0, 0]}
    encoded = Table.encode(chosen, rows)
    assert torch.equal(encoded, Table.encode(chosen, pa.table({"x": [3.0, 4.0], "kind": rows["kind"]})))
    mean, scale = fitted["columns"][0]["mean"][0], fitted["columns"][0]["scale"][0]
    assert encoded[0].tolist() == pytest.approx([(3.0 - mean) / scale, 0, 0, 1])
    assert encoded[1, 1:].tolist() == [0, 0, 0]
    y = torch.tensor([[101.0], [130.0]])
    assert torch.allclose(Table.decode(chosen, Table.encode_targets(chosen, y)), y)
    for given, message in (
        ({"x": [1.0]}, "there is no column 'kind'"),
        ({"x": [1.0], "kind": ["wet", "dry"]}, "of different lengths"),
        ({"x": ["a"], "kind": ["wet"]}, r"\['x'\]: cannot be read as numbers"),
        (np.zeros((2, 2)), "'kind' is a column of categories; give the columns by name"),
    ):
        with pytest.raises(ConfigError, match=message):
            Table.encode(chosen, given)
    plain = options(path)
    plain = plain.with_fitted(Table.fit(plain, {}))
    with pytest.raises(ConfigError, match=r"expected the shape \(N, 2\)"):
        Table.encode(plain, np.zeros((2, 3)))


# Where the rows come from -----------------------------------------------------------------------------------------


def test_the_same_rows_are_the_same_tasks_wherever_they_lie(tmp_path):
    content = table()
    one = write(tmp_path / "one.parquet", content)
    write(tmp_path / "parts" / "b" / "2.parquet", content.slice(100))
    write(tmp_path / "parts" / "1.parquet", content.slice(0, 100))
    (tmp_path / "parts" / "_SUCCESS").touch()
    csv = write(tmp_path / "one.csv", content)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(csv.read_bytes()))
    (tmp_path / "tabs.tsv").write_text(csv.read_text().replace(",", "\t"))
    places = [one, csv, tmp_path / "packed.csv.gz", tmp_path / "tabs.tsv", tmp_path / "parts", one.as_uri()]
    batches = [flat(opened(place).sample("train", range(9))) for place in places]
    hashes = [Table.contents(options(place)) for place in places]
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    assert all(each == hashes[0] for each in hashes)


def test_another_host_gets_the_store(tmp_path):
    path = write(tmp_path / "t.parquet", table())
    (tmp_path / "test.txt").write_text("\n".join(NAMES[:9]))
    splits = {"train": NAMES[20:], "validation": NAMES[10:20], "test": str(tmp_path / "test.txt")}
    chosen = options(path, splits=splits)
    expected = flat(Table(chosen, episodes(), CPU).sample("test", range(9)))
    there = tmp_path / "there"
    there.mkdir()
    for name, file in Table.holdings(chosen).items():
        (there / name).write_bytes(file.read_bytes())
    moved = Table.moved(chosen, there)
    path.unlink()
    (tmp_path / "test.txt").unlink()
    assert (there / ROWS_FILE).exists()
    assert torch.equal(flat(Table(moved, episodes(), CPU).sample("test", range(9))), expected)


def test_a_changed_file_makes_another_store(tmp_path):
    path = write(tmp_path / "t.parquet", table())
    before = Table.contents(options(path))
    write(path, table(y=np.zeros(TASKS * ROWS)))
    assert Table.contents(options(path)) != before
    write(path, table())
    assert Table.contents(options(path)) == before


def test_a_damaged_store_is_named(tmp_path):
    path = write(tmp_path / "t.parquet", table())
    store = Table.holdings(options(path))[ROWS_FILE]
    store.write_bytes(store.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"table store .* is damaged or incomplete .*; delete it"):
        opened(path)


def test_tasks_with_too_few_rows_are_left_out_and_counted(tmp_path, caplog):
    few = sorted(tasks_of(NAMES)["train"])[:3]
    content = table()
    kept = [
        site not in few or row < 6
        for site, row in zip(
            *map(pa.Array.to_pylist, [content["site"].combine_chunks(), content["when"].combine_chunks()]), strict=True
        )
    ]
    path = write(tmp_path / "t.parquet", content.filter(pa.array(kept)))
    with caplog.at_level(logging.INFO):
        Table.prepare(options(path), episodes())
    assert "3 of 26 train tasks have too few rows" in caplog.text
    family = opened(path)
    drawn = {family.name("train", number) for number in range(23)}
    assert drawn == tasks_of(NAMES)["train"] - set(few)
    with pytest.raises(ConfigError, match=r"tasks\.shots \+ tasks\.queries = 9 \+ 9 = 18: none of the 26 train tasks"):
        opened(path, sizes=(9, 9))


# What is refused --------------------------------------------------------------------------------------------------

COUNT = TASKS * ROWS


def with_one(values: Any, at: int, odd: Any) -> Any:
    found = list(values)
    found[at] = odd
    return found


ALL_BUT_TWO = {"train": NAMES[2:], "validation": NAMES[:1], "test": NAMES[1:2]}
PLAIN = [float(number) for number in range(COUNT)]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({}, {"features": ["x", "widde"]}, r"t\.\w+ has no column 'widde'; did you mean 'wide'\?"),
        ({}, {"task": "sitte"}, r"t\.\w+ has no column 'sitte'; did you mean 'site'\?"),
        ({}, {"target": "z"}, r"t\.\w+ has no column 'z'"),
        ({}, {"features": ["x", "y"]}, r"tasks\.features names 'y', which is the task or the target"),
        ({"x": with_one(PLAIN, 7, 1e300)}, {"splits": ALL_BUT_TWO}, r"the column 'x' has numbers too large"),
        (
            {"x": with_one([str(number % 9) for number in range(COUNT)], 9, "n/k")},
            {"features": "x"},
            r"t\.\w+, row 10, column 'x': 'n/k' is text, and most are numbers; .* name the column in tasks\.categories",
        ),
        ({}, {"order": "z"}, r"t\.\w+ has no column 'z'"),
        ({}, {"splits": {"column": "z"}}, r"t\.\w+ has no column 'z'"),
        ({}, {"splits": {"column": "kind"}}, r"the column 'kind' has '\w+' for the task 'site-\d\d'; expected train"),
        (
            {"part": ["train", "test"] * (COUNT // 2)},
            {"splits": {"column": "part"}},
            r"has both \w+ and \w+ for the task",
        ),
        ({"part": ["train"] * COUNT}, {"splits": {"column": "part"}}, r"none of the 40 tasks of .* is for validation"),
        ({"x": with_one(PLAIN, 7, None)}, {}, r"t\.\w+, row 8, column 'x': there is no value"),
        ({"y": with_one(PLAIN, 7, float("-inf"))}, {}, r"t\.\w+, row 8, column 'y': -inf is not a finite number"),
        (
            {"x": with_one(map(str, PLAIN), 9, "n/k")},
            {"features": "x"},
            r"column 'x': more than 64 different texts, .*'n/k'",
        ),
        (
            {"y": with_one(map(str, PLAIN), 9, "n/k")},
            {},
            r"t\.\w+, row 10, column 'y': 'n/k' is text, where numbers are wanted",
        ),
        ({"site": with_one(["a"] * COUNT, 5, None)}, {}, r"t\.\w+, row 6, column 'site': there is no value"),
        (
            {"label": ["a"] * COUNT},
            {"target": "label", "objective": "cross_entropy", "classes": "all"},
            "have one class, 'a'",
        ),
        (
            {"label": ["a"] * COUNT},
            {"target": "label", "objective": "cross_entropy", "ways": 2},
            r"has so many rows of each of 2",
        ),
        ({}, {"target": "label", "objective": "cross_entropy"}, r"tasks\.ways: .* set tasks\.ways"),
        ({}, {"ways": 2}, r"tasks\.ways = 2: tasks\.objective = squared_error is no classification"),
        (
            {},
            {"target": ["label", "kind"], "objective": "cross_entropy", "ways": 2},
            "names 2 columns, and classes stand in one",
        ),
    ],
)
@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_what_cannot_be_used_is_named(columns, settings, message, format, tmp_path):
    path = write(tmp_path / f"t.{format}", table(**columns))
    chosen = options(path, **settings)
    with pytest.raises((DataError, ConfigError), match=message) as error:
        Table.prepare(chosen, episodes(ways=chosen.ways))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob(".table-*"))


def test_numbers_that_are_not_finite_are_named(tmp_path):
    for odd in (float("nan"), float("inf")):
        path = write(tmp_path / "t.parquet", table(x=with_one(PLAIN, 300, odd)))
        with pytest.raises(DataError, match=r"t\.parquet, row 301, column 'x': (nan|inf) is not a finite number"):
            opened(path)
    lists = [[1.0, 2.0]] * COUNT
    for odd, message in (([1.0], "a list of 1 numbers, where others have 2"), ([1.0, None], "a gap in the list")):
        path = write(tmp_path / "t.parquet", table(pair=with_one(lists, 70, odd)))
        with pytest.raises(DataError, match=rf"row 71, column 'pair': .*{message}"):
            opened(path, features=["pair"])


def test_text_far_down_a_csv_file_is_named(tmp_path):
    """Types come from a file's beginning: what does not fit them comes later."""
    path = tmp_path / "t.csv"
    rows = [f"{number % 50},{number},{'1.5' if number % 3 else '2'}" for number in range(150_000)]
    rows[140_000] = "3,oops,1"
    path.write_text("site,x,y\n" + "\n".join(rows))
    with pytest.raises(DataError, match=r"t\.csv, row 140,001, column 'x': 'oops' is text, where numbers are wanted"):
        opened(path, features=["x"])


def test_files_that_are_no_table_are_named(tmp_path):
    for name, content in (
        ("t.parquet", b""),
        ("t.csv", b""),
        ("t.parquet", b"PAR1 no"),
        ("t.csv", b"site,site\n1,2\n"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} (cannot be read as a|has two columns)"):
            opened(path)
    (tmp_path / "t.csv").write_text("site,x,wide,y\n")
    with pytest.raises(DataError, match=r"t\.csv has no rows"):
        opened(tmp_path / "t.csv")
    pq.write_table(table().slice(0, 0), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet has no rows"):
        opened(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="there is no such file or folder"):
        opened(tmp_path / "u.parquet")
    (tmp_path / "t.txt").touch()
    with pytest.raises(DataError, match=r"expected a file \(\.parquet.*'t\.txt' is none"):
        opened(tmp_path / "t.txt")
    with pytest.raises(DataError, match="there are files of several formats: move the others away"):
        opened(tmp_path)


def test_files_of_a_folder_have_one_schema(tmp_path):
    write(tmp_path / "f" / "1.parquet", table().slice(0, 100))
    write(tmp_path / "f" / "2.parquet", table().slice(100).drop(["wide"]))
    with pytest.raises(DataError, match=r"2\.parquet has no column 'wide'"):
        opened(tmp_path / "f")
    write(tmp_path / "f" / "2.parquet", table(wide=["a"] * COUNT).slice(100))
    with pytest.raises(DataError, match=r"2\.parquet, column 'wide': it holds text, and numbers in .*1\.parquet"):
        opened(tmp_path / "f")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "y"}, "order and target both name the column 'y'"),
        ({"target": "site"}, "target and task both name the column 'site'"),
        ({"splits": {"column": "site"}}, r"splits\.column and task both name"),
        ({"target": []}, "at least 1 item"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        options("t.csv", **settings)
