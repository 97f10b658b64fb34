"""Texts: where they come from, what a task is, what is learned from the training classes alone, what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from pydantic import ValidationError
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from task_helpers import episodes

from distmeta.core.records import SPLITS
from distmeta.data.token_store import TokenStore
from distmeta.data.tokenization import PieceEncoder, padded, restore
from distmeta.errors import ConfigError, DataError
from distmeta.tasks import TASKS
from distmeta.tasks.base import Episode
from distmeta.tasks.options import TextOptions
from distmeta.tasks.texts import TEXT_STORE, Text

CPU = torch.device("cpu")
CLASSES, EACH = 16, 7
IDS = [0, 7, 2**40 + 3]
SIZES = episodes(ways=3, shots=2, queries=4)


def rows():
    """Texts of some words, of which one is the class's own; classes of four make a group."""
    generator = np.random.default_rng(0)
    common = [f"word{number}" for number in range(20)]
    for number in range(CLASSES * EACH):
        label = number % CLASSES
        words = [*generator.choice(common, generator.integers(1, 5)), f"own{label}", f"Number{number}!"]
        yield " ".join(words), f"class {label:02}", f"group {label // 4}"


def write(path: Path, values=None, columns=("text", "label", "group")) -> Path:
    """A file in the format that its name says."""
    table = pa.table(dict(zip(columns, map(list, zip(*(values or rows()), strict=True)), strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return path


def options(path, **settings) -> TextOptions:
    return TextOptions(kind="text", root=str(path), length=settings.pop("length", 8), **settings)


def opened(settings: TextOptions, sizes=None) -> tuple[Text, TextOptions]:
    """The family, and the settings with what it learned."""
    sizes = sizes or SIZES
    fitted = settings.with_fitted(Text.fit(settings, sizes))
    return Text(fitted, sizes, CPU), fitted


def everything(batch) -> torch.Tensor:
    parts = [part[name].flatten(1).double() for part in (batch.support, batch.query) for name in sorted(part)]
    return torch.cat(parts, 1)


@pytest.fixture(scope="module", name="table")
def _table(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("texts") / "texts.parquet")


def test_a_task_has_texts_of_its_classes(table):
    family, settings = opened(options(table, vocabulary=500))
    vocabulary = ["", "?", *settings.fitted["tokenizer"]["vocabulary"]]
    whole = {" ".join(PieceEncoder([]).pieces(text)): label for text, label, _ in rows()}
    batch = family.sample("train", range(20))
    assert batch.support["tokens"].shape == (20, 6, 8)
    assert batch.query["mask"].shape == (20, 12, 8)
    assert (batch.support["tokens"].dtype, batch.support["mask"].dtype) == (torch.int64, torch.float32)
    assert batch.query["y"].tolist() == [[way for way in range(3) for _ in range(4)]] * 20
    for task in range(20):
        found = {}
        for part, examples in ((batch.support, 2), (batch.query, 4)):
            for row in range(3 * examples):
                count = int(part["mask"][task, row].sum())
                assert part["mask"][task, row].tolist() == [1.0] * count + [0.0] * (8 - count)
                assert not part["tokens"][task, row, count:].any()
                text = " ".join(vocabulary[token] for token in part["tokens"][task, row, :count])
                found.setdefault(row // examples, []).append(text)
        labels = [{whole[text] for text in texts} for texts in found.values()]
        assert all(len(label) == 1 for label in labels)
        assert len(set.union(*labels)) == 3
        assert len({text for texts in found.values() for text in texts}) == 18


def test_a_task_is_its_id_and_the_run_seed_changes_training_alone(table):
    family, settings = opened(options(table))
    again = Text(settings, SIZES, CPU)
    together = everything(family.sample("train", range(10, 18)))
    assert torch.equal(together, everything(again.sample("train", range(10, 18))))
    assert torch.equal(everything(again.sample("train", [15]))[0], together[5])
    assert len(torch.unique(together, dim=0)) == 8
    other = Text(settings, episodes(ways=3, shots=2, queries=4, seed=1), CPU)
    assert not torch.equal(everything(family.sample("train", IDS)), everything(other.sample("train", IDS)))
    for split in ("validation", "test"):
        assert torch.equal(everything(family.sample(split, IDS)), everything(other.sample(split, IDS)))
    parts = [everything(family.sample(split, IDS)) for split in SPLITS]
    assert len(torch.unique(torch.cat(parts), dim=0)) == 9


def test_every_format_gives_the_same_tasks(table, tmp_path):
    family, settings = opened(options(table))
    expected = everything(family.sample("test", IDS))
    half = CLASSES * EACH // 2
    write(tmp_path / "folder" / "a.parquet", list(rows())[:half])
    write(tmp_path / "folder" / "b" / "b.parquet", list(rows())[half:])
    for name in ("texts.csv", "texts.tsv", "texts.jsonl", "folder"):
        path = tmp_path / name if name == "folder" else write(tmp_path / name)
        other, its = opened(options(path))
        assert its.fitted == settings.fitted
        assert torch.equal(everything(other.sample("test", IDS)), expected)
        assert Text.contents(its) == Text.contents(settings)


def test_columns_may_have_any_name_and_labels_be_numbers(tmp_path):
    given = [(text, int(label[-2:])) for text, label, _ in rows()]
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        path = write(tmp_path / name, given, ("utterance", "intent"))
        family, _ = opened(options(path, text="utterance", label="intent"))
        assert family._store.index.classes == tuple(sorted(map(str, range(CLASSES))))


def test_texts_with_quotes_commas_and_line_breaks(tmp_path):
    given = [(f'say "{text}",\nplease', label) for text, label, _ in rows()]
    family, settings = opened(options(write(tmp_path / "a.csv", given, ("text", "label")), length=16))
    assert "please" in settings.fitted["tokenizer"]["vocabulary"]
    assert len(family._store.index.codes) == CLASSES * EACH


def test_only_the_training_classes_are_learned_from(table):
    splits = {"train": [f"group {n}" for n in (0, 1)], "validation": ["group 2"], "test": ["group 3"]}
    family, settings = opened(options(table, group="group", splits=splits))
    known = set(settings.fitted["tokenizer"]["vocabulary"])
    assert {f"own{label}" for label in range(8)} <= known
    assert not {f"own{label}" for label in range(8, 16)} & known
    assert [family._store.index.classes[at] for at in family._splits["test"]] == [f"class {n}" for n in range(12, 16)]
    tokens = family.sample("test", range(10)).query["tokens"]
    assert (tokens == 1).any(-1).all()  # each test text has a word that is unknown
    assert tokens.max() < settings.fitted["size"]


def test_unknown_words_have_tokens_of_their_own_with_buckets(table):
    splits = {"train": ["group 0", "group 1"], "validation": ["group 2"], "test": ["group 3"]}
    family, settings = opened(options(table, group="group", splits=splits, buckets=1000))
    known = len(settings.fitted["weights"])
    assert settings.fitted["size"] == known + 1000
    tokens = family.sample("test", range(10)).query["tokens"]
    assert not (tokens == 1).any()
    assert (tokens >= known).any(-1).all()
    spec = Text.spec(settings).inputs["tokens"]
    assert spec.values == len(spec.weights) == known + 1000
    assert set(spec.weights[known:]) == {settings.fitted["unseen"]}
    assert settings.fitted["unseen"] >= max(settings.fitted["weights"])


def test_weights_are_inverse_document_frequencies_as_scikit_learn_has_them(table):
    _, settings = opened(options(table, splits={"train": 0.5, "validation": 0.25, "test": 0.25}))
    family, _ = opened(settings)
    training = {family._store.index.classes[at] for at in family._splits["train"]}
    texts = [text for text, label, _ in rows() if label in training]
    oracle = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+").fit(texts)
    found = dict(zip(settings.fitted["tokenizer"]["vocabulary"], settings.fitted["weights"][2:], strict=True))
    assert found.keys() == oracle.vocabulary_.keys()
    for word, column in oracle.vocabulary_.items():
        assert found[word] == pytest.approx(oracle.idf_[column], abs=1e-6)


def test_runs_of_characters_are_those_of_scikit_learn():
    oracle = CountVectorizer(analyzer="char_wb", ngram_range=(2, 4)).build_analyzer()
    pieces = list(PieceEncoder([], ngrams=(2, 4)).pieces("Freeze my account please"))
    longer = {" freeze ", " account ", " please "}  # words as a whole
    assert sorted(piece for piece in pieces if piece not in longer) == sorted(oracle("freeze my account please"))
    assert list(PieceEncoder([], ngrams=(5, 6)).pieces("a bee")) == [" a ", " bee "]


def test_the_vocabulary_is_bounded_by_frequency(table):
    _, settings = opened(options(table, vocabulary=10))
    assert settings.fitted["size"] == 10
    _, everything_known = opened(options(table))
    assert settings.fitted["tokenizer"]["vocabulary"] == everything_known.fitted["tokenizer"]["vocabulary"][:8]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "file"])
def test_tokenizers_of_the_library(kind, table, tmp_path):
    import tokenizers

    settings = options(table, tokenizer="bpe" if kind == "file" else kind, vocabulary=120)
    if kind == "file":
        description = Text.fit(settings, SIZES)["tokenizer"]["description"]
        Path(tmp_path, "mine.json").write_text(description)
        settings = options(table, tokenizer=str(tmp_path / "mine.json"))
    family, settings = opened(settings)
    if kind == "file":
        Path(tmp_path, "mine.json").unlink()  # it is with the run by now
    assert torch.equal(
        everything(Text(settings, SIZES, CPU).sample("test", IDS)), everything(family.sample("test", IDS))
    )
    library = tokenizers.Tokenizer.from_str(settings.fitted["tokenizer"]["description"])
    encoded = Text.encode(settings, ["word1 own3 zebra"])
    expected = library.encode("word1 own3 zebra").ids[:8]
    assert encoded["tokens"][0, : len(expected)].tolist() == expected
    assert settings.fitted["size"] == library.get_vocab_size()


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": 0.5, "validation": 0.25, "test": 0.25, "seed": 3}, [8, 4, 4]),
        ({"column": "part"}, [8, 4, 4]),
        ({"train": [f"class {n:02}" for n in range(5)], "validation": ["class 06"], "test": ["class 07"]}, [5, 1, 1]),
    ],
)
def test_splits(splits, expected, tmp_path):
    parts = ["train", "train", "val", "test"]
    given = [(text, label, parts[int(group[-1])]) for text, label, group in rows()]
    path = write(tmp_path / "a.csv", given, ("text", "label", "part"))
    family, _ = opened(options(path, splits=splits), {"train": Episode(1, 1, 0, 2)})
    assert [len(family._splits[split]) for split in SPLITS] == expected


def test_encoded_texts_go_to_other_hosts(table, tmp_path):
    names = Path(tmp_path, "test.txt")
    names.write_text("group 3\n")
    splits = {"train": ["group 0", "group 1"], "validation": ["group 2"], "test": str(names)}
    family, settings = opened(options(table, group="group", splits=splits))
    folder = tmp_path / "there"
    folder.mkdir()
    held = Text.holdings(settings)
    assert set(held) == {TEXT_STORE, "split-test.txt"}
    for name, path in held.items():
        shutil.copy(path, folder / name)
    names.unlink()
    moved = Text.moved(settings, folder)
    assert str(table) not in str(moved)
    assert torch.equal(everything(Text(moved, SIZES, CPU).sample("test", IDS)), everything(family.sample("test", IDS)))


def test_texts_are_encoded_once_in_pieces(table, monkeypatch):
    monkeypatch.setattr("distmeta.data.token_store._BATCH", 10)
    family, settings = opened(options(table, length=7))
    store = family._store
    assert len(store._tokens) == -(-CLASSES * EACH // 10)
    tokens, counts = padded(restore(settings.fitted["tokenizer"]), [text for text, *_ in rows()], 7)
    order = np.random.default_rng(0).permutation(CLASSES * EACH)
    assert np.array_equal(store.tokens(order), tokens[order])
    assert np.array_equal(store.lengths(order), counts[order])
    before = store.path.stat().st_mtime_ns
    Text(settings, SIZES, CPU)
    assert store.path.stat().st_mtime_ns == before


def test_a_changed_store_is_refused_by_name(table):
    family, settings = opened(options(table, length=9))
    path = family._store.path
    whole = path.read_bytes()
    at = whole.index(np.ascontiguousarray(family._store._tokens[0][0]).tobytes())
    path.write_bytes(whole[:at] + b"\x03" + whole[at + 1 :])
    with pytest.raises(DataError, match=rf"encoded texts '{path}' are damaged .*does not match the hash"):
        Text.contents(settings)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"encoded texts '{path}' are damaged .* delete the file"):
        Text(settings, SIZES, CPU)
    path.unlink()
    Text.contents(settings)


def test_large_stores_are_verified_once_and_again_where_they_change(table, monkeypatch):
    monkeypatch.setattr("distmeta.data.verified.SMALL", 0)
    family, settings = opened(options(table, length=10))
    first = Text.contents(settings)
    assert Text.contents(settings) == first
    path = family._store.path
    whole = path.read_bytes()
    at = whole.index(np.ascontiguousarray(family._store._tokens[0][0]).tobytes())
    path.write_bytes(whole[:at] + b"\x03" + whole[at + 1 :])
    with pytest.raises(DataError, match="does not match the hash"):
        Text.contents(settings)
    path.unlink()


def test_long_readings_say_how_far_they_are(table, monkeypatch, caplog):
    monkeypatch.setattr("distmeta.core.advance.INTERVAL", 0.0)
    with caplog.at_level("INFO", logger="distmeta"):
        opened(options(table, length=11))
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"reading {table}: 112 texts, ") for line in said)


def edited(number, text="text", label="label"):
    """The rows, one of them changed."""
    given = [list(row[:2]) for row in rows()]
    given[number] = [given[number][0] if text == "text" else text, given[number][1] if label == "label" else label]
    return given


@pytest.mark.parametrize(
    ("values", "columns", "settings", "message"),
    [
        (None, ("text", "label", "group"), {"text": "utterance"}, r"no column 'utterance' \(tasks\.text\); it has 'te"),
        (None, ("text", "label", "group"), {"label": "x"}, r"no column 'x' \(tasks\.label\)"),
        (None, ("text", "label", "group"), {"group": "x"}, r"no column 'x' \(tasks\.group\)"),
        (None, ("text", "label", "group"), {"splits": {"column": "x"}}, r"no column 'x' \(tasks\.splits\.column\)"),
        (edited(20, text=""), ("text", "label"), {}, r"row 21 has nothing in the column 'text'"),
        (edited(4, text=" \n"), ("text", "label"), {}, r"row 5 has only white space in the column 'text'"),
        (edited(3, text=None), ("text", "label"), {}, r"row 4 has a null in the column 'text'"),
        (edited(0, label=None), ("text", "label"), {}, r"row 1 has a null in the column 'label' \(tasks\.label\)"),
        ([(1.5, "a")], ("text", "label"), {}, r"column 'text' .* holds double values; expected text"),
        ([("a", 0.5)], ("text", "label"), {}, r"column 'label' .* holds double values"),
        (
            [*((t, la, g) for t, la, g in rows()), ("again", "class 00", "group 3")],
            ("text", "label", "group"),
            {"group": "group"},
            r"row 113 has the class 'class 00' in the group 'group 3', and rows before it in 'group 0'",
        ),
        (
            [*((t, la) for t, la, _ in rows()), ("alone", "lonely")],
            ("text", "label"),
            {"splits": {"train": ["lonely", "class 00", "class 01"], "validation": ["class 02"], "test": ["class 03"]}},
            r"tasks\.shots \+ tasks\.queries = 2 \+ 4 = 6: the class 'lonely' of the train split has 1 text;",
        ),
        (
            None,
            ("text", "label", "group"),
            {"splits": {"train": ["class 00"], "validation": ["x"], "test": ["y"]}},
            r"tasks\.splits\.validation: .* has no class 'x'",
        ),
    ],
)
def test_bad_tables_are_refused_with_one_message(values, columns, settings, message, tmp_path):
    path = write(tmp_path / "bad.parquet", values, columns)
    with pytest.raises((DataError, ConfigError), match=message) as error:
        Text.fit(options(path, **settings), SIZES)
    assert "\n" not in str(error.value)


def test_an_empty_split_is_refused(tmp_path):
    path = write(tmp_path / "few.csv", [(f"text {n}", f"class {n % 2}") for n in range(20)], ("text", "label"))
    with pytest.raises(ConfigError, match=r"tasks\.splits\.\w+ = 0\.\d+ of the 2 classes of .* is none"):
        Text.fit(options(path), SIZES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "cannot read"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\n\xff\xfe,a\n", "cannot read"),
        ("a.csv", b"text,label\nhello,a\nworld\n", "cannot read"),
        ("a.parquet", b"PAR1 and no more", "cannot read"),
        ("a.jsonl", b'{"text": "hello", "label"', "cannot read"),
        ("a.txt", b"text", "expected a file .*, or a folder of files of one format"),
    ],
)
def test_damaged_files_are_refused_by_name(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        Text.fit(options(path), SIZES)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"text,label\nhello,a\nworld\n", "row 2 has 1 value instead of 2: 'world'"),
        ("a.csv", "größe,label\na,b\n".encode("latin-1"), "it is not UTF-8; save the file as UTF-8"),
        ("a.csv", b"text,label\nhello,a\n\xff,b\n", "row 2, column 1, is not UTF-8"),
        (
            "a.csv",
            b"text,label\nhello,a\n" + b"a long enough text,b\n" * 70_000 + b"\xff,b\n",
            "row 70,002, column 'text', is not UTF-8",
        ),
        ("a.csv", b"text,label,text\na,b,c\n", "it has two columns of the name 'text'; rename one of them"),
        ("a.csv", b"", "it is empty"),
        ("a.jsonl", b'{"text": "a", "text": "b", "label": "c"}\n', "row 1 has 'text' twice"),
        ("a.jsonl", '{"text": "größe", "label": "c"}\n'.encode("latin-1"), "it is not UTF-8"),
        ("a.parquet", b"PAR1 and something else that is long enough", "Parquet magic bytes not found in footer"),
        ("a.parquet", None, "it has two columns of the name 'text'; rename one of them"),
    ],
)
def test_reasons_are_the_readers_own(name, content, why, tmp_path):
    path = tmp_path / name
    if content is None:
        values = [pa.array(["a"])] * 3
        pyarrow.parquet.write_table(pa.table(values, names=["text", "label", "text"]), path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        Text.fit(options(path), SIZES)
    assert str(error.value).startswith(f"cannot read '{path}' as a table of texts: {why}")


def test_texts_may_look_like_times(tmp_path):
    given = [(f"2024-01-{number % 28 + 1:02d}", label) for number, (_, label, _) in enumerate(rows())]
    expected = None
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        family, _ = opened(options(write(tmp_path / name, given, ("text", "label"))))
        found = everything(family.sample("train", IDS))
        assert expected is None or torch.equal(found, expected)
        expected = found


def test_views_of_strings_are_text(tmp_path):
    columns = dict(zip(("text", "label"), zip(*[row[:2] for row in rows()], strict=True), strict=True))
    table = pa.table({name: pa.array(values, pa.string_view()) for name, values in columns.items()})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    family, _ = opened(options(tmp_path / "a.parquet"))
    assert len(family._store.index.classes) == CLASSES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "text"}, r"tasks\.label and tasks\.text both name the column 'text': expected one column for each"),
        ({"group": "label"}, r"tasks\.group and tasks\.label both name the column 'label'"),
        ({"splits": {"column": "text"}}, r"tasks\.splits\.column and tasks\.text both name the column 'text'"),
    ],
)
def test_a_column_has_one_meaning(settings, message, table):
    with pytest.raises(ConfigError, match=message):
        Text.fit(options(table, **settings), SIZES)


def test_missing_and_mixed_files_are_refused(table, tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        Text.fit(options(tmp_path / "nothing.csv"), SIZES)
    write(tmp_path / "mixed" / "a.csv")
    write(tmp_path / "mixed" / "b.parquet")
    with pytest.raises(DataError, match="there are files of several formats"):
        Text.fit(options(tmp_path / "mixed"), SIZES)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model": 3}', b"\xff", b"[" * 100_000])
def test_damaged_tokenizers_are_refused(content, table, tmp_path):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"tasks\.tokenizer = '.*mine\.json': cannot be read as a tokenizer"):
        Text.fit(options(table, tokenizer=str(path)), SIZES)


def test_a_missing_package_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install distmeta\[text\]"):
        Text.fit(options(table), SIZES)


@pytest.mark.parametrize(
    "fitted",
    [
        {},
        {"tokenizer": {}, "size": 3, "weights": [1.0], "unseen": float("nan")},
        {"tokenizer": {}, "size": 1, "weights": [1.0, 2.0], "unseen": 1.0},
        {"tokenizer": {}, "size": "x", "weights": [1.0], "unseen": 1.0},
        {"tokenizer": {}, "size": 2, "weights": [-1.0], "unseen": 1.0},
    ],
)
def test_damaged_values_of_a_run_are_refused(fitted, table):
    learned = Text.fit(options(table), SIZES)
    with pytest.raises(DataError, match="the run's tokens are damaged"):
        Text.spec(options(table).with_fitted({**learned, **fitted} if fitted else {}))
    with pytest.raises(DataError, match="the run's tokenizer is damaged"):
        restore({"kind": "pieces", "vocabulary": 3})


def test_a_run_keeps_the_settings_of_its_tokenizer(table):
    fitted = Text.fit(options(table, buckets=5), SIZES)
    with pytest.raises(ConfigError, match=r"tasks\.buckets = 6, but the run's tokenizer was made with 5"):
        Text(options(table, buckets=6).with_fitted(fitted), SIZES, CPU)


def test_what_a_tokenizer_cannot_encode_is_said(table, tmp_path):
    import tokenizers

    path = tmp_path / "mine.json"
    model = tokenizers.models.WordLevel({"word1": 0, "word2": 1}, unk_token="[UNK]")  # which it does not have
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.save(str(path))
    with pytest.raises(DataError, match=r"the tokenizer cannot encode .* use one that has a token for what"):
        Text.fit(options(table, tokenizer=str(path)), SIZES)
    path.write_text(path.read_text().replace('"word2": 1', '"word2": 4000000000'))
    with pytest.raises(DataError, match=r"mine\.json.*the largest is 4,000,000,000|cannot be read as a tokenizer"):
        Text.fit(options(table, tokenizer=str(path)), SIZES)


def test_broken_characters_are_refused(table):
    _, settings = opened(options(table))
    with pytest.raises(ConfigError, match="characters that no UTF-8 has"):
        Text.encode(settings, ["fine", "a \ud800 text"])


@pytest.mark.parametrize(
    "settings",
    [
        {"ngrams": [4, 3]},
        {"tokenizer": "bpe", "buckets": 10},
        {"length": 0},
        {"vocabulary": 2},
        {"splits": {"train": 0.5, "validation": 0.5, "test": 0.5}},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(ValidationError):
        TextOptions(kind="text", root="texts.csv", **settings)


def test_clinc150_is_split_by_domains(clinc):
    family_class = TASKS["clinc150"]
    settings = family_class.Options(kind="clinc150", root=str(clinc))
    sizes = episodes(ways=5, shots=1, queries=15)
    settings = settings.with_fitted(family_class.fit(settings, sizes))
    family = family_class(settings, sizes, CPU)
    index = family._store.index
    assert len(index.codes) == 150 * 150
    assert np.bincount(index.codes).tolist() == [150] * 150
    domains = {split: {index.groups[at] for at in family._splits[split]} for split in SPLITS}
    assert {split: len(family._splits[split]) for split in SPLITS} == {"train": 90, "validation": 30, "test": 30}
    assert domains["test"] == {"credit_cards", "kitchen_and_dining"}
    assert domains["validation"] == {"utility", "work"}
    assert "calories" not in settings.fitted["tokenizer"]["vocabulary"]
    assert family.sample("test", range(3)).query["tokens"].shape == (3, 75, 32)
    with pytest.raises(ValidationError, match="CLINC150 has no columns"):
        family_class.Options(kind="clinc150", splits={"column": "x"})


def test_damaged_clinc150_is_refused(clinc, tmp_path, monkeypatch):
    family_class = TASKS["clinc150"]
    settings = family_class.Options(kind="clinc150", root=str(tmp_path))
    sizes = episodes(ways=5, shots=1, queries=15)
    with pytest.raises(DataError, match=r"holds no CLINC150; set tasks\.root"):
        family_class.fit(settings, sizes)
    shutil.copytree(clinc, tmp_path / "clinc150", copy_function=shutil.copyfile)
    texts = tmp_path / "clinc150" / "data_full.json"
    whole = json.loads(texts.read_text())
    for damage, message in (
        ("{", "is damaged"),
        ("[]", "expected an object"),
        (json.dumps({**whole, "train": []}), "expected a list"),
        (json.dumps({**whole, "test": [["a text", "no_such_intent"]]}), r"\(test\): entry 1 is .*no_such_intent"),
        (json.dumps({**whole, "val": [["a", "b", "c"]]}), r"\(val\): entry 1"),
    ):
        texts.write_text(damage)
        with pytest.raises(DataError, match=message):
            family_class.fit(settings, sizes)
    monkeypatch.delenv("DISTMETA_DATA", raising=False)
    with pytest.raises(DataError, match=r"neither tasks\.root nor DISTMETA_DATA is set"):
        family_class.fit(family_class.Options(kind="clinc150"), sizes)


def test_damage_anywhere_in_encoded_texts_is_found(table, tmp_path):
    """Whatever byte has changed, the file is refused, or holds what it held."""
    family, _ = opened(options(table, length=6))
    whole, path = family._store.path.read_bytes(), tmp_path / "texts.arrow"
    everything_held = family._store.tokens(np.arange(CLASSES * EACH))
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            store = TokenStore.open(path)
            store.verify()
        except DataError:
            refused += 1
            continue
        assert np.array_equal(store.tokens(np.arange(CLASSES * EACH)), everything_held)
        assert store.index.classes == family._store.index.classes
        assert np.array_equal(store.index.codes, family._store.index.codes)
    assert refused > 200
