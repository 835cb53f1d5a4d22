"""Reading from object stores: only the bytes wanted, again where a transfer breaks, once where a copy is kept."""

import io
import os
import tarfile
import time

import numpy as np
import pyarrow as pa
import pytest

from pipelines.index.search import CACHED_S, local_file
from pipelines.rerank.pictures import Item, PictureChanged, PictureGone, fetch
from pipelines.webdataset.samples import read_samples
from schemas.commits import publish_bytes
from schemas.configs import Captions, Embed
from schemas.digests import digest_bytes
from schemas.errors import InputError
from schemas.manifests import FileEntry
from schemas.parquet import TableWriter, open_table, read_table
from schemas.samples import Sample
from schemas.stores import open_store


def a_shard(pictures: int, size: int, seed: int = 1) -> bytes:
    out, noise = io.BytesIO(), np.random.default_rng(seed)
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(pictures):
            info = tarfile.TarInfo(f"item{number:03d}.jpg")
            info.size = size
            tar.addfile(info, io.BytesIO(noise.bytes(size)))
    return out.getvalue()


def samples_of(url: str) -> list[Sample]:
    read = read_samples(url, shard="a", captions=Captions(), key_scope="dataset", embed=Embed())
    return [sample for sample in read if isinstance(sample, Sample)]


def items_of(samples: list[Sample]) -> list[Item]:
    return [Item(n, s.key, s.position, s.offset, s.size, digest_bytes(s.data), "image") for n, s in enumerate(samples)]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_samples_and_pictures_are_those_of_a_local_shard(root, tmp_path, suffix):
    data = a_shard(40, 3000)
    if suffix == ".tar.gz":
        import gzip

        data = gzip.compress(data, mtime=0)
    local, url = tmp_path / f"a{suffix}", f"{root}/a{suffix}"
    local.write_bytes(data)
    publish_bytes(data, url)
    samples = samples_of(str(local))
    assert samples_of(url) == samples
    assert len(samples) == 40
    items = items_of(samples)
    for some in (items, items[3:39:12], [items[-1]], []):
        assert list(fetch(url, some, Embed())) == [samples[item.item_id].data for item in some]


def test_a_few_pictures_are_fetched_alone(s3, s3_server):
    publish_bytes(a_shard(200, 50_000), f"{s3}/a.tar")
    samples = samples_of(f"{s3}/a.tar")
    some = items_of(samples)[::25]
    s3_server.faults()
    assert list(fetch(f"{s3}/a.tar", some, Embed())) == [samples[item.item_id].data for item in some]
    counts = s3_server.counts()
    assert counts["GET"] == len(some)
    assert counts["HEAD"] == 1
    assert counts["sent"] < 1.1 * sum(item.size for item in some)


def test_a_shard_that_changed_gives_no_other_picture(remote):
    publish_bytes(a_shard(20, 3000), f"{remote}/a.tar")
    some = items_of(samples_of(f"{remote}/a.tar"))[::7]
    publish_bytes(a_shard(20, 3000, seed=2), f"{remote}/a.tar")
    assert [type(found) for found in fetch(f"{remote}/a.tar", some, Embed())] == [PictureChanged] * 3
    publish_bytes(a_shard(1, 3000), f"{remote}/a.tar")
    found = list(fetch(f"{remote}/a.tar", some, Embed()))
    assert [type(one) for one in found[1:]] == [PictureGone] * 2
    open_store(remote)[0].rm_file(open_store(f"{remote}/a.tar")[1])
    assert [type(found) for found in fetch(f"{remote}/a.tar", some, Embed())] == [PictureGone] * 3


@pytest.mark.parametrize("fault", [{"kind": "SlowDown", "status": 503}, {"kind": "cut"}])
def test_reads_go_on_where_a_transfer_breaks(s3, s3_server, fault):
    publish_bytes(a_shard(60, 50_000), f"{s3}/a.tar")
    samples = samples_of(f"{s3}/a.tar")
    broken = fault | {"method": "GET", "times": 2}
    s3_server.faults(broken)
    assert samples_of(f"{s3}/a.tar") == samples
    s3_server.faults(broken)
    some = items_of(samples)[::10]
    assert list(fetch(f"{s3}/a.tar", some, Embed())) == [samples[item.item_id].data for item in some]


def test_a_store_that_stays_away_is_an_error_and_no_verdict(s3, s3_server):
    publish_bytes(a_shard(8, 3000), f"{s3}/a.tar")
    some = items_of(samples_of(f"{s3}/a.tar"))[::4]
    s3_server.faults({"kind": "AccessDenied", "status": 403, "method": "GET"})
    with pytest.raises(PermissionError):
        list(fetch(f"{s3}/a.tar", some, Embed()))


def test_of_a_table_only_the_rows_and_columns_wanted_travel(s3, s3_server, tmp_path):
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("v", pa.list_(pa.field("element", pa.float16()), 256))])
    writer = TableWriter(tmp_path / "t", schema)
    values = np.random.default_rng(1).normal(size=(8000, 256)).astype(np.float16)
    for start in range(0, 8000, 1000):
        writer.write({"id": list(range(start, start + 1000)), "v": values[start : start + 1000]})
    writer.close()
    publish_bytes((tmp_path / "t").read_bytes(), f"{s3}/t.parquet")
    s3_server.faults()
    assert read_table(f"{s3}/t.parquet", ["id"]).column("id").to_pylist() == list(range(8000))
    assert s3_server.counts()["sent"] < 200_000
    s3_server.faults()
    with open_table(f"{s3}/t.parquet") as table:
        assert table.read_row_group(3).column("id").to_pylist() == list(range(3000, 4000))
    assert s3_server.counts()["sent"] < 1000 * 256 * 2 + 200_000
    with pytest.raises(InputError, match="not found"), open_table(f"{s3}/none.parquet"):
        pass


def test_an_index_file_is_fetched_once_checked_and_forgotten_after_a_week(s3, s3_server, tmp_path):
    data, cache = os.urandom(100_000), tmp_path / "cache"
    publish_bytes(data, f"{s3}/index.faiss")
    entry = FileEntry(name="index.faiss", rows=1, size_bytes=len(data), sha256=digest_bytes(data))
    s3_server.faults()
    path = local_file(f"{s3}/index.faiss", entry, cache)
    assert path.read_bytes() == data
    assert s3_server.counts()["sent"] >= len(data)
    s3_server.faults()
    assert local_file(f"{s3}/index.faiss", entry, cache) == path
    assert s3_server.counts()["sent"] == 0
    long_ago = time.time() - CACHED_S - 60
    others = [cache / f"{'0' * 64}.faiss", cache / f"{'1' * 64}.abc.tmp", cache / "notes.txt"]
    for other in others:
        other.write_bytes(b"x")
        os.utime(other, (long_ago, long_ago))
    os.utime(path, (long_ago, long_ago))
    local_file(f"{s3}/index.faiss", entry, cache)  # opened: young again
    publish_bytes(b"other", f"{s3}/b.npy")
    local_file(f"{s3}/b.npy", FileEntry(name="b.npy", rows=1, size_bytes=5, sha256=digest_bytes(b"other")), cache)
    assert [other.exists() for other in others] == [False, False, True]
    assert path.exists()
    wrong = entry.model_copy(update={"sha256": "f" * 64})
    with pytest.raises(InputError, match="content differs from its manifest"):
        local_file(f"{s3}/index.faiss", wrong, cache)
    assert sorted(one.name for one in cache.iterdir()) == sorted(
        [path.name, f"{digest_bytes(b'other')}.npy", "notes.txt"]
    )
