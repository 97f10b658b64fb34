"""Tables as files have them: encodings, types that only a later file tells, order to the last digit, large numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distmeta.core.records import SPLITS
from distmeta.errors import ConfigError, DataError
from distmeta.tasks.base import Episode
from distmeta.tasks.table import Table

CPU = torch.device("cpu")
TASKS, ROWS = 20, 8
COUNT = TASKS * ROWS
NAMES = [f"site-{number:02d}" for number in range(TASKS)]
BY_NAME = {"train": NAMES[2:], "validation": NAMES[:1], "test": NAMES[1:2]}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_CACHE", str(tmp_path / "cache"))


def content(**columns: Any) -> dict[str, Any]:
    """160 rows of 20 tasks, one after the other."""
    plain = {
        "site": np.repeat(NAMES, ROWS).tolist(),
        "x": [float(number) for number in range(COUNT)],
        "y": [float(number % 7) for number in range(COUNT)],
    }
    return {**plain, **columns}


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(content(**columns)), path)
    return path


def csv(path: Path, *, encoding: str = "utf-8", rows: Any = None, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    given = content(**columns)
    lines = [",".join(given), *(",".join(map(str, row)) for row in (rows or zip(*given.values(), strict=True)))]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def opened(path: Path, **settings: Any) -> Table:
    given = {"task": "site", "target": "y", "features": ["x"], "shots": 2, "queries": 3, **settings}
    chosen = Table.Options(kind="table", path=str(path), **given)  # type: ignore[arg-type]
    episodes: Mapping[Any, Episode] = {split: Episode(2, 3, 0, given.get("ways")) for split in SPLITS}
    fitted = chosen.with_fitted(Table.fit(chosen, episodes))
    return Table(fitted, episodes, CPU)  # type: ignore[arg-type]


def features(path: Path, **settings: Any) -> list[str]:
    fitted = opened(path, **settings)._options.fitted
    assert fitted is not None
    return [each["name"] for each in fitted["columns"]]


def one(values: Any, at: int, odd: Any) -> list[Any]:
    found = list(values)
    found[at] = odd
    return found


def refused(path: Path, message: str, **settings: Any) -> None:
    with pytest.raises((DataError, ConfigError), match=message) as error:
        opened(path, **settings)
    assert "\n" not in str(error.value)


# What stands in the files -----------------------------------------------------------------------------------------


def test_quoted_line_ends_in_large_files(tmp_path):
    path = tmp_path / "t.csv"
    note = '"' + "\n".join(["a line of the note"] * 40) + '"'
    path.write_text("site,x,y,note\n" + "".join(f"site-{n % 20:02d},{n},{n % 3}.5,{note}\n" for n in range(4000)))
    assert path.stat().st_size > 2 * 2**20
    assert features(path, features=["x"]) == ["x"]


def test_text_that_is_not_utf8_is_named(tmp_path):
    rest = r"not UTF-8; save the file as UTF-8 \(in a spreadsheet: CSV UTF-8\)"
    size = {"größe": ["1"] * COUNT}
    refused(csv(tmp_path / "t.csv", encoding="latin-1", **size), r"t\.csv cannot be read as a csv file: it is " + rest)
    refused(csv(tmp_path / "t.csv", encoding="utf-16", **size), rest)
    note = {"note": one(["klein"] * COUNT, 7, "größe")}
    path = csv(tmp_path / "t.csv", encoding="latin-1", **note)
    assert features(path) == ["x"]  # a column that is not used
    refused(path, r"t\.csv, column 'note', is " + rest, features=["x", "note"])
    refused(
        csv(tmp_path / "t.csv", encoding="latin-1", site=one(content()["site"], 7, "größe")),
        r"t\.csv cannot be read as a csv file: row 8, column 1, is " + rest,
    )
    late = [["site-01", 1, 2.5]] * 300_000 + [["site-01", "größe", 2.5]]
    refused(csv(tmp_path / "t.csv", encoding="latin-1", rows=late), r"row 300,001, column 'x', is " + rest)


def test_empty_lists_are_named(tmp_path):
    refused(parquet(tmp_path / "t.parquet", x=pa.array([[]] * COUNT, pa.list_(pa.float64()))), "row 1, .*an empty list")
    values = one([[1.0]] * COUNT, 5, [])
    refused(
        parquet(tmp_path / "t.parquet", x=values), r"t\.parquet, row 6, column 'x': an empty list; expected a number"
    )


def test_reasons_are_the_readers_own(tmp_path):
    path = csv(tmp_path / "t.csv")
    path.write_text(path.read_text().replace("site-00,3.0,3.0", "site-00,3.0"))
    refused(path, r"^\S+t\.csv cannot be read as a csv file: row 4 has 2 values instead of 3: 'site-00,3\.0'$")
    refused(
        csv(tmp_path / "t.csv", rows=[["a", 1, 2]] * 400_000 + [["a"]]), "row 400,001 has 1 value instead of 3: 'a'"
    )
    path.write_text(csv(path).read_text().replace("site,x,y", "site,y,y"))
    refused(path, r"it has two columns of the name 'y'; rename one of them$")
    columns = [pa.array(each) for each in content().values()]
    pq.write_table(pa.table(columns, names=["site", "y", "y"]), tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", r"it has two columns of the name 'y'; rename one of them$")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and something else that is long enough")
    refused(tmp_path / "t.parquet", r"as a parquet file: Parquet magic bytes not found in footer.*not a parquet file$")


@pytest.mark.parametrize(
    ("plain", "odd", "words"),
    [
        ("true", "oops", "truth values; mend it"),
        ("2024-01-01", "oops", "dates; mend it"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00.5", "dates with times in whole seconds; mend it"),
    ],
)
def test_types_that_change_far_down_are_named(plain, odd, words, tmp_path):
    rows = [["site-01", plain, 1.5]] * 200_000 + [["site-01", odd, 1.5]]
    path = csv(tmp_path / "t.csv", rows=rows)
    path.write_text(path.read_text().replace("site,x,y", "site,when,y,z", 1).replace(",1.5\n", ",1.5,2\n") + ",2\n")
    message = rf"t\.csv cannot be read after row [\d,]+: row 200,001, column 'when': '{odd}' does not fit .*, {words}$"
    refused(path, message, **({"features": ["when"]} if plain == "true" else {"features": ["z"], "order": "when"}))


# Files of a folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["1", "2"])
def test_columns_of_one_file_alone_are_refused_whichever_it_is(which, tmp_path):
    folder = tmp_path / "f"
    for name in ("1", "2"):
        parquet(folder / f"{name}.parquet", **({"extra": [1.0] * COUNT} if name == which else {}))
    other = {"1": "2", "2": "1"}[which]
    refused(folder, rf"{other}\.parquet has no column 'extra', and \S*{which}\.parquet has one", features=None)
    refused(folder, rf"{other}\.parquet has no column 'extra', and \S*{which}\.parquet has one", features=["x", "ext*"])
    refused(folder, rf"{other}\.parquet has no column 'extra'", features=["x", "extra"])
    assert features(folder) == ["x"]


@pytest.mark.parametrize("name", ["0.csv", "9.csv"])
def test_columns_without_values_take_the_other_files_type(name, tmp_path):
    folder = tmp_path / "f"
    csv(folder / "5.csv", kind=["dry", "wet"] * (COUNT // 2))
    (folder / name).write_text("site,x,y,kind\n")
    assert features(folder, features=None) == ["x", "kind"]
    assert opened(folder, features=["kind"]).sample("train", [0]).support["x"].shape == (1, 2, 2)
    (folder / name).write_text("site,x,y,kind\nsite-00,1,1.5,\n")
    refused(folder, rf"{name}, row 1, column 'kind': there is no value", features=None)
    (folder / name).write_text("site,x,y,kind\nsite-00,1,1.5,3\n")
    refused(folder, r"csv, column 'kind': it holds \w+, and \w+ in \S+csv; expected one schema", features=None)


# Settings ---------------------------------------------------------------------------------------------------------


def test_categories_are_features(tmp_path):
    path = parquet(tmp_path / "t.parquet", kind=["1", "2"] * (COUNT // 2), when=list(range(COUNT)))
    refused(path, r"tasks\.categories names 'kind', which tasks\.features leaves out", categories=["kind"])
    refused(path, r"tasks\.categories names 'y', which is tasks\.target", categories=["y"], features=None)
    refused(path, r"tasks\.categories names 'when', which is tasks\.order", categories=["when"], order="when")
    refused(path, r"has no column 'kinde'; did you mean 'kind'", categories=["kinde"])
    assert features(path, categories=["when"], features=["*"], most_categories=COUNT) == ["x", "kind", "when"]


def test_patterns_leave_out_columns_with_another_role(tmp_path):
    part = np.repeat(["train"] * 18 + ["validation", "test"], ROWS).tolist()
    path = parquet(tmp_path / "t.parquet", part=part, when=list(range(COUNT)))
    settings = {"splits": {"column": "part"}, "order": "when"}
    for given in (["*"], None):
        assert features(path, features=given, **settings) == ["x"]
    assert features(path, features=["x", "when"], **settings) == ["x", "when"]  # named, it is meant
    refused(path, r"tasks\.features: 'pa\*' matches 'part' alone, which the settings use", features=["pa*"], **settings)


def support(path: Path) -> list[list[int]]:
    """The rows of the first tasks' support sets."""
    batch = opened(path, order="when", standardise=False).sample("train", range(10))
    return (batch.support["x"][..., 0] % ROWS).long().tolist()


BACKWARDS = [ROWS - 1 - number % ROWS for number in range(COUNT)]
TIMES = np.array(BACKWARDS) * 100
SPELLED = {
    "ns": pa.array(np.datetime64("2024-01-01", "ns") + TIMES.astype("timedelta64[ns]")),
    "large": pa.array([2**60 + each for each in BACKWARDS]),
    "unsigned": pa.array([2**63 - 4 + each for each in BACKWARDS], pa.uint64()),
    "fractions": pa.array([each - 4 + 0.25 for each in BACKWARDS]),
    "far": pa.array([(each - 4) * 1e300 for each in BACKWARDS]),
    "dates": pa.array(np.datetime64("1969-12-28") + np.array(BACKWARDS)),
}


@pytest.mark.parametrize("format", [parquet, csv])
@pytest.mark.parametrize("kind", SPELLED)
def test_the_order_is_exact(kind, format, tmp_path):
    column = SPELLED[kind]
    if format is csv:
        column = [str(each) for each in column.cast(pa.string()).to_pylist()]
    path = format(tmp_path / f"t.{format.__name__}", when=column)
    assert support(path) == [[ROWS - 1, ROWS - 2]] * 10


def test_what_has_no_order_is_refused(tmp_path):
    whole = [str(2**60 + number) for number in range(COUNT)]
    path = csv(tmp_path / "t.csv", when=one(whole, 7, "oops"))
    refused(path, r"t\.csv, row 8, column 'when': 'oops' is text, where numbers are wanted", order="when")
    refused(csv(tmp_path / "t.csv", when=one(whole, 7, "")), "row 8, column 'when': there is no value", order="when")
    refused(parquet(tmp_path / "t.parquet", when=whole), "row 1, column 'when': .* is text", order="when")
    path = csv(tmp_path / "t.csv", when=one([str(2**60 + each) for each in BACKWARDS], 0, "0.5"))
    found = support(path)
    assert found.count([ROWS - 1, ROWS - 2]) >= len(found) - 1
    assert set(map(tuple, found)) <= {(ROWS - 1, ROWS - 2), (0, ROWS - 1)}


# Large numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 30], ids=["validation", "train"])
def test_numbers_too_large_are_named_with_their_task_and_column(at, tmp_path):
    task = f"task 'site-{at // ROWS:02d}'"
    large = one(content()["x"], at, 1e300)
    plain = {"splits": BY_NAME, "standardise": False}
    refused(
        parquet(tmp_path / "t.parquet", x=large), rf"^{task}, column 'x': 1e\+300 is too large for float32; ", **plain
    )
    two = parquet(tmp_path / "t.parquet", z=large)
    refused(two, rf"^{task}, column 'z': 1e\+300 is too large for float32; ", target=["y", "z"], **plain)
    message = "the column 'z' has numbers too large to be standardised" if at == 30 else f"^{task}, column 'z'"
    refused(two, message, target=["y", "z"], splits=BY_NAME)
    refused(two, message, features=["x", "z"], splits=BY_NAME)


def test_numbers_too_large_are_refused_where_they_are_used(tmp_path):
    """An evaluation may be on other rows than those that were learned from."""
    family = opened(parquet(tmp_path / "t.parquet"))
    other = family._options.model_copy(
        update={"path": str(parquet(tmp_path / "u.parquet", x=[1e300] * COUNT, z=content()["y"]))}
    )
    with pytest.raises(
        DataError, match=r"u\.parquet, task 'site-\d\d', column 'x': 1e\+300 is too large for float32 by"
    ):
        Table(other, family._episodes, CPU).sample("test", [0])
    with pytest.raises(ConfigError, match=r"the inputs, row 2, column 'x': 1e\+300 is too large for float32"):
        Table.encode(family._options, {"x": [1.0, 1e300]})
    with pytest.raises(ConfigError, match=r"\['x'\] is a masked array, of which 1 of 2 values are masked"):
        Table.encode(family._options, {"x": np.ma.masked_array([1.0, 2.0], [False, True])})
    with pytest.raises(ConfigError, match=r"y_support has 1e\+300, which is too large for float32"):
        Table.encode_targets(family._options, np.array([[1.0], [1e300]]))
