"""What somebody else wrote or removed a moment ago is seen at once, however often was asked before."""

import fsspec
import pytest

from pipelines.reindex import publish
from pipelines.webdataset.shards import expand, list_shards
from schemas.commits import commit_json, exists, publish_bytes
from schemas.digests import digest_file
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.manifests import list_manifests
from schemas.stores import list_files, open_store


def elsewhere(verb: str, url: str, data: str = "") -> None:
    """Somebody else writes or removes: a file system of its own, whose memory ours does not share."""
    fs, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    if verb == "rm":
        fs.rm_file(path)
    else:
        fs.pipe_file(path, data.encode())


def test_what_somebody_else_wrote_is_seen(remote):
    layout = Layout(remote, "d")
    commit_json(f"{remote}/embeddings/d/a.json", 1)
    publish_bytes(b"one", f"{remote}/shards/a-0.tar")
    for _ in range(2):
        assert list_manifests(f"{remote}/embeddings/d") == [f"{remote}/embeddings/d/a.json"]
        assert not exists(f"{remote}/embeddings/d/b.json")
        assert publish.numbers(layout) == []
        [before] = list_shards([f"{remote}/shards/a-*.tar"], layout)
    elsewhere("write", f"{remote}/embeddings/d/b.json", "2")
    elsewhere("write", layout.generation(1), "{}")
    elsewhere("write", f"{remote}/shards/a-0.tar", "another")
    elsewhere("write", f"{remote}/shards/a-1.tar", "one more")
    assert list_manifests(f"{remote}/embeddings/d") == [f"{remote}/embeddings/d/{name}.json" for name in "ab"]
    assert exists(f"{remote}/embeddings/d/b.json")
    assert publish.numbers(layout) == [1]
    first, second = list_shards([f"{remote}/shards/a-{{0..1}}.tar"], layout)
    assert first.digest != before.digest
    assert (first.size_bytes, second.size_bytes) == (len("another"), len("one more"))
    assert expand([f"{remote}/shards/*.tar"]) == [first.url, second.url]
    elsewhere("rm", f"{remote}/shards/a-1.tar")
    with pytest.raises(InputError, match="no such shard"):
        list_shards([f"{remote}/shards/a-{{0..1}}.tar"], layout)


def test_a_longer_file_is_read_to_its_new_end(remote):
    publish_bytes(b"short", f"{remote}/x")
    list_files(remote)
    before = digest_file(f"{remote}/x")
    elsewhere("write", f"{remote}/x", "much longer than before")
    assert digest_file(f"{remote}/x") != before
    fs, path = open_store(f"{remote}/x")
    with fs.open(path, "rb") as stream:
        assert stream.read() == b"much longer than before"


def test_a_plain_file_system_would_remember(s3):
    """What the tests above are about: without `open_store` a listing is stale."""
    publish_bytes(b"1", f"{s3}/folder/a")
    fs, path = fsspec.core.url_to_fs(f"{s3}/folder")
    assert len(fs.ls(path)) == 1
    elsewhere("write", f"{s3}/folder/b", "2")
    assert len(fs.ls(path)) == 1
    assert len(list_files(f"{s3}/folder")) == 2


def test_a_folder_is_not_its_neighbour(root):
    for name in ("demo/a", "demo2/b", "demo/deep/c"):
        publish_bytes(b"x", f"{root}/{name}")
    assert sorted(list_files(f"{root}/demo")) == [f"{root}/demo/a", f"{root}/demo/deep/c"]
    assert list_files(f"{root}/dem") == {}


def test_shards_are_asked_for_once_each(s3, s3_server):
    for number in range(12):
        publish_bytes(b"x" * number, f"{s3}/a-{number:02d}.tar")
    layout = Layout(s3, "d")
    s3_server.faults()
    by_name = list_shards([f"{s3}/a-{{00..11}}.tar"], layout)
    assert s3_server.counts()["HEAD"] == 12
    assert s3_server.counts().get("GET", 0) == 0
    s3_server.faults()
    assert list_shards([f"{s3}/a-*.tar"], layout) == by_name
    assert s3_server.counts()["HEAD"] + s3_server.counts()["GET"] <= 4


def test_a_folder_and_a_bucket_that_is_missing_are_told_apart(s3):
    publish_bytes(b"x", f"{s3}/folder/a.tar")
    with pytest.raises(InputError, match=r"is a folder; write .*folder/\*.tar"):
        expand([f"{s3}/folder"])
    with pytest.raises(InputError, match="no such shard"):
        expand([f"{s3}/folder/b-*.tar"])
    with pytest.raises(InputError, match="s3://not-there/a.tar: no such"):
        expand(["s3://not-there/a.tar"])
