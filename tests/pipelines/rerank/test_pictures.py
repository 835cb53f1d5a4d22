"""Bytes of wanted pictures: from plain and packed tars, and when they are not what they were."""

from pathlib import Path

import fsspec
import pytest

from pipelines.rerank.pictures import Item, PictureChanged, PictureGone, fetch
from pipelines.webdataset.samples import read_samples
from schemas.configs import Captions, Embed
from schemas.digests import digest_bytes


@pytest.fixture(params=["plain", "packed"])
def shard(request, tmp_path, colours) -> str:
    members = []
    for number in range(8):
        members += [
            (f"{number}.txt", b"a caption"),
            (f"{number}.jpg", colours.picture(f"{number:06x}") + bytes(number)),
        ]
    path = tmp_path / ("s.tar" if request.param == "plain" else "s.tar.gz")
    colours.write_shard(path, members, "w" if request.param == "plain" else "w:gz")
    return str(path)


def items_of(url: str) -> list[Item]:
    samples = read_samples(url, shard="s", captions=Captions(), key_scope="dataset", embed=Embed())
    return [Item(n, s.key, s.position, s.offset, s.size, digest_bytes(s.data), "image") for n, s in enumerate(samples)]


@pytest.mark.parametrize("wanted", [slice(None), slice(2, 3), slice(1, None, 3), slice(0, 0)])
def test_the_wanted_pictures_come_in_order(shard, wanted):
    items = items_of(shard)[wanted]
    found = list(fetch(shard, items, Embed()))
    assert [digest_bytes(data) for data in found] == [item.content_sha256 for item in items]


def test_a_changed_picture_is_told_from_a_missing_one(shard, colours):
    items = items_of(shard)
    changed = Item(1, "1", 1, items[1].offset, items[1].size, digest_bytes(b"other"), "image")
    beyond = Item(9, "9", 9, 1 << 20, 10, digest_bytes(b""), "image")
    first, second, third = fetch(shard, [items[0], changed, beyond], Embed())
    assert isinstance(first, bytes)
    assert isinstance(second, PictureChanged)
    assert isinstance(third, PictureGone)


def test_a_shard_that_is_gone_loses_its_pictures_only(shard):
    items = items_of(shard)
    Path(shard).unlink()
    found = list(fetch(shard, items, Embed()))
    assert len(found) == 8
    assert all(isinstance(one, PictureGone) for one in found)


def test_a_cut_shard_gives_what_is_left(shard):
    items = items_of(shard)
    data = Path(shard).read_bytes()
    Path(shard).write_bytes(data[: items[5].offset] if shard.endswith(".tar") else data[: len(data) // 2])
    found = list(fetch(shard, items, Embed()))
    whole = [isinstance(one, bytes) for one in found]
    assert whole == sorted(whole, reverse=True)
    assert len(found) == 8
    assert isinstance(found[7], PictureGone)
    if shard.endswith(".tar"):  # of a packed tar this short, a cut leaves nothing
        assert sum(whole) == 5


def test_sparse_pictures_of_a_remote_tar_cost_their_own_bytes_only(shard, colours):
    if not shard.endswith(".tar"):
        pytest.skip("a packed tar has to be read from its beginning")
    items = items_of(shard)
    url = "memory://shards/s.tar"
    with fsspec.open(url, "wb") as stream:
        stream.write(Path(shard).read_bytes())
    found = list(fetch(url, [items[0], items[7]], Embed()))
    assert [digest_bytes(data) for data in found] == [items[0].content_sha256, items[7].content_sha256]
