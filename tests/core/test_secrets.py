"""Secrets in URIs, in whatever text they stand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from distmeta.config.text import parse_yaml, read_text
from distmeta.core.quoting import shown
from distmeta.core.secrets import is_masked, mask, masked, strip, without_secrets
from distmeta.errors import ConfigError, DistmetaError, StorageError
from distmeta.loading import load_config
from distmeta.runs.directory import check_resume
from distmeta.storage.credentials import S3_VARIABLES
from distmeta.storage.files import Storage

SECRET = "PLANTED+s3cret"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:{}@bucket/runs/a",
        "s3://key:{}@bucket/user@home/a?region=x",
        "s3://:{}@bucket",
        "s3://key:{}%2F%40@bucket",
        "s3://key:ab/{}/cd@bucket/x",  # should be %2F
        "s3://key:ab@{}@bucket/x",
        "abfs://:{}@account.dfs.core.windows.net/c",
        "https://{}@host:8265/jobs",
        "http://user:{}@127.0.0.1:8265",
        "ray://user:{}@host:10001",
        "s3://bucket/a?secret_key={}&region=x",
        "s3://bucket/a?region=x&session_token={}",
        "s3://bucket/a?X-Amz-Signature={}",
        "https://a.blob.core.windows.net/c?sv=1&sig={}",
        "gs://bucket?access_token={};x=1",
        "x://h?API-Key={}#part",
        "x://h?client_secret={}&password={}",
        "s3://key:a'{}@bucket/x",
        "s3://key:a\"{}'@bucket/x",
        "s3://key:9/{}@bucket/x",
        "s3://key:12345/{}@bucket",
        "https://key:8265/{}@host/x",
        "s3://key:a#{}@bucket",
        "s3://key:a?{}@bucket",
        "s3://key:a@/{}@bucket",
        "s3://key:a/b@{}@bucket",
        "s3://a@b:{}@bucket",
        "s3://KEY%3A{}@bucket",
        "s3://KEY%253a{}@bucket/x",
        "s3://key:{}%40bucket/x",
        "s3://{}@bucket/x",
        "https://{}:x-oauth-basic@host/x",
        "s3%3A%2F%2Fkey%3A{}%40bucket",
        "s3://bucket?endpoint_override=http%3A%2F%2Fu%3A{}%40h",
        "s3://bucket?endpoint_override=http%253A%252F%252Fu%253A{}%2540h&region=x",
        "s3://bucket?endpoint_override=http%3A%2F%2Fh%3Ftoken%3D{}",
        "s3://bucket?endpoint_override=http://u:{}@h",
        "s3://bucket?next=http://h?token={}",
        "s3://bucket/a?%73ecret_key={}",
        "s3://bucket/a?secret%5Fkey={}",
        "s3://bucket/a?%2573ecret_key={}",
        "s3://bucket/a?secret_key%3D{}",
        "s3://bucket/a?secret_key=a'{}",
        "s3://bucket/a?secret_key=a#{}",
        "s3://bucket/a?secret_key=a;{}",
        "s3://bucket/a?pass={}",
        "s3://bucket/a?passphrase={}&x=y",
        "s3://bucket/a?auth={}",
        "s3://bucket/a?sas={}",
        "s3://bucket/a?Authorization={}",
        "s3://bucket/a#token={}",
        "s3://bucket/a?x=y#a=b&token={}",
        "s3:/key:{}@bucket/x",
        "s3:/bucket?token={}",
    ],
)
def test_nothing_of_it_is_left(uri: str) -> None:
    uri = uri.replace("{}", SECRET)
    for text in (uri, f"cannot open '{uri}': no", f'{{"a": "{uri}", "b": "{uri}"}}', f"a={uri}\nb: {uri}\n"):
        assert SECRET not in mask(text)
        assert mask(mask(text)) == mask(text)
    assert is_masked(mask(uri))
    assert not is_masked(strip(mask(uri)))
    assert SECRET not in str(DistmetaError(f"about {uri}"))
    assert SECRET not in repr(ConfigError(f"about {uri}"))
    assert SECRET not in str(masked({"a": [uri, (uri,)], "b": {"c": uri}}))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/runs/a?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:5000",
        "abfs://container@account.dfs.core.windows.net/path",
        "http://127.0.0.1:8265",
        "http://127.0.0.1:8265/#/jobs/a@b",
        "ray://head:10001",
        "runs/a:b@c?token=d",
        "s3://bucket/key=1/token=2",
        "s3://bucket/a%20b/c%3Ad?region=x%2Dy",
        "hdfs://user@host:8020/x",
        "abfs://c@a.example.net/x?blob_storage_authority=.example.net&dfs_storage_authority=.example.net",
        "https://example.org/50%/a#author=me&monkey=1",
        "write to me@example.org: see https://example.org/a?b=c",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text
    assert without_secrets(text) == text


def test_long_texts_take_no_time() -> None:
    """What grew with the square of the length would take hours."""
    for part in ("s3://a:", "s3://a@/", "?a=", "?a=s3://b:", "a", "%3A", ":/", "x@", "s3://k:S@b,"):
        assert mask(part * 100_000)


def test_what_storage_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    storage = Storage.at(f"s3://key:{SECRET}@bucket/a?region=us-east-1").child("b")
    assert storage.location == "s3://key:***@bucket/a/b?region=us-east-1"
    for wrong in (f"s3://key:{SECRET}@", f"nothing://key:{SECRET}@bucket", f"s3://key:a/{SECRET}@bucket?x=y"):
        with pytest.raises(StorageError) as caught:
            Storage.at(wrong).list()
        assert SECRET not in str(caught.getrepr(chain=True))
    assert SECRET not in caplog.text


def test_a_masked_uri_is_opened_by_the_environment(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in (*S3_VARIABLES, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    uri = bucket.format("/secrets")
    Storage.at(uri).write_bytes("a", b"content")
    with pytest.raises(StorageError, match=r"secret was left out .* set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Storage.at(mask(uri))
    for name in S3_VARIABLES:
        monkeypatch.setenv(name, "anything")
    assert Storage.at(mask(uri)).read_bytes("a") == b"content"


def test_credentials_are_no_setting_of_a_run() -> None:
    """A resumed run may name its data with other credentials, or none; another place is a change."""

    def at(root: str) -> dict[str, dict[str, str]]:
        return {"tasks": {"root": root}}

    for now in (f"s3://key:{SECRET}@bucket/a", "s3://other:key@bucket/a", "s3://bucket/a", "s3://key:***@bucket/a"):
        check_resume(at("s3://key:***@bucket/a"), at(now))
        check_resume(at(f"s3://key:{SECRET}@bucket/a"), at(now))  # as an older version has written it
    with pytest.raises(ConfigError) as caught:
        check_resume(at(f"s3://key:{SECRET}@bucket/a"), at(f"s3://key:{SECRET}@bucket/b"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:PLA'NTED@bucket/a",
        'x="s3://AKIA:PLANTED"x@bucket/a"',
        "s3://KEY%3APLANTED@b",
        "s3://A@B:PLANTED@b/c",
        "s3://AKIA:9/PLANTED@b/x",
        "s3://AKIA:9PLANTED?x#y@b/x",
        "s3:/AKIA:PLANTED@b/x",
        "s3://b/a?endpoint_override=http%3A%2F%2Fu%3APLANTED%40h",
        "s3://b/a?%73ecret_key=PLANTED",
        "s3://b/a?secret_key=PLA'NTED",
        "s3://b/a?pass=PLANTED",
        "s3://b/a?passphrase=PLANTED&auth=PLANTED&sas=PLANTED",
        "https://h/a#access_token=PLANTED",
        "https://PLANTED@h/a",
    ],
)
def test_unusual_secrets(uri: str) -> None:
    for text in (uri, f"cannot open '{uri}': no", f'{{"a": "{uri}"}}', f"a={uri}\nb: {uri}\n"):
        assert "PLA" not in mask(text), mask(text)
        assert mask(mask(text)) == mask(text)


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8265/jobs", "see s3://bucket/a?region=x for more", "runs/a:b", "a: b@c", "C:/x/y.yaml"]
)
def test_what_is_no_secret(text: str) -> None:
    assert mask(text) == text


def test_what_is_cut_was_masked_before() -> None:
    assert "PLANTED" not in shown("c" * 180 + " s3://AKIA:PLANTED" + "D" * 60 + "@bucket")


@pytest.mark.parametrize("line", ["root: s3://AKIA:PLANTED@bucket/data: x", 'root: "s3://AKIA:PLANTED@bucket'])
def test_a_yaml_mistake_quotes_nothing(line: str) -> None:
    with pytest.raises(ConfigError, match=r"c.yaml is not valid YAML: .*line 2") as caught:
        parse_yaml(f"tasks:\n  {line}\n", "c.yaml")
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize("location", ["s3:/AKIA:PLANTED@b/x", "s3://", "://", Path("s3://AKIA:PLANTED@b/x")])
def test_a_uri_that_lost_something_is_no_folder(location: Any) -> None:
    with pytest.raises(StorageError, match="two slashes and a name") as caught:
        Storage.at(location)
    assert "PLANTED" not in str(caught.value)
    with pytest.raises(ConfigError, match="is a URI: expected a file of this machine"):
        read_text(str(location), "configuration")


@pytest.mark.parametrize("location", ["file:///{}/a", "{}/a", "{}/a:b"])
def test_what_is_a_folder(location: str, tmp_path: Path) -> None:
    storage = Storage.at(location.format(tmp_path).replace("////", "///"))
    storage.write_bytes("note", b"hello")
    assert storage.read_bytes("note") == b"hello"


def test_settings_show_no_secrets() -> None:
    root = "s3://AKIA:PLANTED@bucket/data"
    tasks = {"kind": "omniglot", "root": root}
    config = load_config({"tasks": tasks, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}})
    assert "PLANTED" not in f"{config!r} {config} {config.tasks!r}"
    assert config.tasks.root == root
