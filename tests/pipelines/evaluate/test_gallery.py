"""Items by id: the same rows as the tables hold, the same bytes as the shards hold."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate.gallery import open_gallery
from schemas.configs import Embed
from schemas.embeddings import part_url
from schemas.errors import InputError, SampleError, StaleError
from schemas.manifests import EmbeddingManifest
from schemas.parquet import read_table


@pytest.fixture
def gallery(published_world):
    return open_gallery(published_world.world.plan.manifests)


@pytest.fixture
def everything(published_world):
    """All rows of all parts by item id, read whole."""
    urls = published_world.world.plan.manifests
    tables = [read_table(part_url(url, EmbeddingManifest.read(url))) for url in urls]
    return {row["item_id"]: row for table in tables for row in table.to_pylist()}


def test_rows_come_in_the_order_asked_for_and_twice_when_asked_twice(gallery, everything):
    ids = np.random.default_rng(0).choice(sorted(everything), 100)
    rows = gallery.rows(ids, ["key", "captions", "embedding", "width"]).to_pylist()
    assert rows == [
        {name: everything[i][name] for name in ("key", "captions", "embedding", "width")} for i in ids.tolist()
    ]


def test_no_ids_give_no_rows(gallery):
    assert gallery.rows(np.empty(0, np.int64), ["key"]).num_rows == 0


def test_an_item_that_is_nowhere_is_refused(gallery):
    with pytest.raises(StaleError, match="item 5: in none of the 3 embedding parts"):
        gallery.rows(np.array([gallery.ids[0], 5]), ["key"])
    with pytest.raises(StaleError, match="in none"):
        gallery.rows(np.array([2**63 - 1]), ["key"])


def test_files_are_the_members_of_the_shards(gallery, everything, published_world):
    members = {}
    for url in published_world.world.shards:
        with tarfile.open(url) as tar:
            members |= {m.name.split(".")[0]: tar.extractfile(m).read() for m in tar if not m.name.endswith(".txt")}
    ids = np.random.default_rng(1).permutation(gallery.ids)
    assert gallery.files(ids, Embed()) == [members[everything[i]["key"]] for i in ids.tolist()]


def test_changed_bytes_are_not_shown_as_the_item(gallery, published_world, tmp_path):
    moved = []
    for url in published_world.world.shards:
        path = tmp_path / url.rsplit("/", 1)[-1]
        path.write_bytes(Path(url).read_bytes().replace(b"\xff\xd8\xff", b"\xff\xd8\x00"))
        moved.append(str(path))
    other = type(gallery)(gallery.parts, tuple(moved), gallery.ids, gallery.part, gallery.row)
    found = other.files(gallery.ids[:10], Embed())
    assert any(isinstance(data, SampleError) for data in found)
    assert not [data for data in found if isinstance(data, bytes) and data.startswith(b"\xff\xd8")]


def test_a_missing_part_is_named(gallery, tmp_path):
    other = type(gallery)((str(tmp_path / "gone.parquet"),), gallery.shards, gallery.ids, gallery.part * 0, gallery.row)
    with pytest.raises(InputError, match=r"gone\.parquet: not found"):
        other.rows(gallery.ids[:1], ["key"])
