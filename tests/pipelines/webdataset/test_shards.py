"""Patterns become URLs, and URLs digests that follow the content."""

import hashlib
import os
from pathlib import Path

import fsspec
import pytest

from pipelines.webdataset import shards
from pipelines.webdataset.shards import Shard, expand, list_shards
from schemas.errors import InputError
from schemas.layout import Layout


@pytest.fixture
def folder(tmp_path):
    for name in ("a-000.tar", "a-001.tar", "a-002.tar", "b.tar", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/test-shards", recursive=True)


def names(urls):
    return [Path(url).name for url in urls]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a-{000..002}.tar"], ["a-000.tar", "a-001.tar", "a-002.tar"]),
        (["{b,a-001}.tar"], ["b.tar", "a-001.tar"]),
        (["*.tar"], ["a-000.tar", "a-001.tar", "a-002.tar", "b.tar"]),
        (["a-00[02].tar", "a-00?.tar"], ["a-000.tar", "a-002.tar", "a-001.tar"]),
        (["b.tar", "*.tar", "./b.tar"], ["b.tar", "a-000.tar", "a-001.tar", "a-002.tar"]),
    ],
)
def test_braces_and_globs_are_expanded_each_file_once(folder, patterns, expected):
    assert names(expand([f"{folder}/{pattern}" for pattern in patterns])) == expected


def test_relative_patterns_stay_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert expand(["*.tar", "b.tar"]) == ["a-000.tar", "a-001.tar", "a-002.tar", "b.tar"]


def test_a_file_whose_name_looks_like_a_glob_is_found(folder):
    (folder / "odd[1].tar").write_bytes(b"")
    assert names(expand([f"{folder}/odd[1].tar"])) == ["odd[1].tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing-*.tar", r"nothing-\*.tar: no such shard.*quotes"),
        ("a-{000..003}.tar", r"a-003.tar \(from .*a-\{000..003\}.tar\): no such shard"),
        ("", r"is a folder; write .*/\*.tar"),
        ("a-{000..999999999}.tar", "expands to more than 1,000,000"),
    ],
)
def test_what_matches_nothing_is_an_error_that_names_it(folder, pattern, message):
    with pytest.raises(InputError, match=message):
        expand([f"{folder}/{pattern}"])


def test_any_fsspec_url_will_do(memory):
    for name in ("x-0.tar", "x-1.tar"):
        memory.pipe(f"/test-shards/{name}", name.encode())
    assert expand(["memory://test-shards/x-{0..1}.tar"]) == [
        "memory://test-shards/x-0.tar",
        "memory://test-shards/x-1.tar",
    ]
    assert names(expand(["memory://test-shards/*.tar"])) == ["x-0.tar", "x-1.tar"]


@pytest.mark.parametrize(
    ("protocol", "expected"), [("http", True), ("https", True), ("file", False), ("memory", False)]
)
def test_a_web_server_is_known_by_its_name(protocol, expected):
    assert shards._is_http(fsspec.filesystem(protocol)) is expected


def test_digests_are_sha256_of_the_content(folder):
    layout = Layout(str(folder / "root"), "d")
    assert list_shards([f"{folder}/a-{{000..001}}.tar"], layout) == [
        Shard(f"{folder}/{name}", hashlib.sha256(name.encode()).hexdigest(), 9) for name in ("a-000.tar", "a-001.tar")
    ]


def test_a_digest_is_remembered_until_the_file_changes(folder, monkeypatch):
    layout = Layout(str(folder / "root"), "d")
    path = folder / "b.tar"
    first = list_shards([str(path)], layout)[0].digest
    with monkeypatch.context() as patch:  # not read again, which is what makes a rerun cheap
        patch.setattr(shards, "digest_file", lambda url: pytest.fail(f"{url} was read"))
        assert list_shards([str(path)], layout)[0].digest == first
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"B.TAR")
    os.utime(path, ns=(stamp, stamp))  # same size, same time of writing
    assert list_shards([str(path)], layout)[0].digest == hashlib.sha256(b"B.TAR").hexdigest()


def test_a_damaged_memo_is_made_again(folder):
    layout = Layout(str(folder / "root"), "d")
    shard = list_shards([f"{folder}/b.tar"], layout)
    (memo,) = (folder / "root" / "cache" / "shard-digests").iterdir()
    memo.write_bytes(b"{")
    assert list_shards([f"{folder}/b.tar"], layout) == shard
    assert shard[0].digest in memo.read_text()


def test_a_remote_checksum_is_used_where_there_is_one(memory, tmp_path, monkeypatch):
    memory.pipe("/test-shards/x.tar", b"content")
    layout = Layout(str(tmp_path), "d")
    by_content = list_shards(["memory://test-shards/x.tar"], layout)[0]
    assert by_content == Shard("memory://test-shards/x.tar", hashlib.sha256(b"content").hexdigest(), 7)

    info = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda self, path: info(self, path) | {"ETag": '"1234"'})
    by_etag = list_shards(["memory://test-shards/x.tar"], layout)[0]
    assert by_etag.digest != by_content.digest
    assert by_etag == list_shards(["memory://test-shards/x.tar"], layout)[0]
