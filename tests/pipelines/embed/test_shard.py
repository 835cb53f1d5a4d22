"""A shard becomes a table, rejects and a manifest; the same bytes for any number of lanes and on every run."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from encoders.decoding import DecodeLimits, decode
from pipelines import progress
from pipelines.embed import shard as module
from pipelines.embed.lanes import Lanes
from pipelines.embed.shard import embed_shard
from schemas import manifests
from schemas.commits import encode_json, publish_bytes
from schemas.configs import Embed
from schemas.digests import digest_file
from schemas.embeddings import read_parts
from schemas.errors import InputError, StaleError
from schemas.ids import item_id
from schemas.manifests import EmbeddingManifest


def embed(kit, path, layout, recipe, *, lanes=2, encoder=None) -> EmbeddingManifest:
    with Lanes(lanes) as workers:
        shard = kit.planned(path, layout, recipe)
        return embed_shard(shard, encoder or kit.ProjectionEncoder(), recipe, lanes=workers).manifest


def mixed_members(kit) -> list[tuple[str, bytes]]:
    members = kit.picture_members(60)
    members[40:40] = [("clip-1.gif", kit.moving_gif(1)), ("clip-1.txt", b"noise that moves")]
    members[20:20] = [("broken.jpg", b"\xff\xd8\xff but nothing more"), ("lonely.txt", b"a caption without a picture")]
    members[10:10] = [("dark.png", kit.black()), ("bad.jpg", kit.jpeg(900)), ("bad.json", b"{not json")]
    return [*members, ("clip-2.gif", kit.moving_gif(2)), ("folder/.hidden", b"x")]


def test_every_sample_is_a_row_or_a_reject_in_the_order_of_the_tar(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "mixed-0.tar", mixed_members(kit))
    manifest = embed(kit, path, layout, recipe)
    counts = manifest.counts
    assert (counts.seen, counts.embedded, counts.rejected) == (66, 63, 3)
    assert (counts.images, counts.videos, counts.caption_errors, counts.ignored_members) == (61, 2, 1, 1)

    paths = kit.planned(path, layout, recipe).paths
    rows = pq.read_table(paths.data).to_pylist()
    refused = pq.read_table(paths.rejects).to_pylist()
    assert [(row["key"], row["stage"]) for row in refused] == [
        ("dark", "encode"),
        ("broken", "decode"),
        ("lonely", "read"),
    ]
    assert sorted(row["position"] for row in rows + refused) == list(range(66))
    for table in (rows, refused):
        assert [row["position"] for row in table] == sorted(row["position"] for row in table)
    assert all(row["item_id"] == item_id("tests", row["key"]) for row in rows)
    assert [row["captions"] for row in rows if row["key"] == "p000003"] == [["picture 3"]]
    data = path.read_bytes()
    for row in rows:  # a range read of the tar gives the very picture
        assert data[row["offset"] : row["offset"] + row["size"]][:2] in (b"\xff\xd8", b"GI")


def test_vectors_are_what_the_encoder_says_of_each_picture_alone(tmp_path, kit, layout, recipe):
    encoder = kit.ProjectionEncoder()
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(20))
    embed(kit, path, layout, recipe)
    [part] = read_parts([kit.planned(path, layout, recipe).paths.manifest], ["key"])
    for number, vector in enumerate(part.vectors):
        picture = decode(
            kit.jpeg(number),
            suffix="jpg",
            spec=encoder.pixels,
            frames=1,
            limits=DecodeLimits.of(Embed()),
            jpeg_scaling="fast",
        )
        exact = encoder.encode_visual(torch.from_numpy(np.stack([picture.pixels])))["embedding"][0]
        np.testing.assert_allclose(vector, exact, atol=1e-3)


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_the_number_of_lanes_changes_no_byte(tmp_path, kit, layout, recipe, lanes):
    path = kit.write_tar(tmp_path / "mixed-0.tar", mixed_members(kit))
    encoder = kit.ProjectionEncoder()
    one = embed(kit, path, layout, recipe, lanes=1)
    other_root = dataclasses.replace(layout, root=str(tmp_path / "other"))
    many = embed(kit, path, other_root, recipe, lanes=lanes, encoder=encoder)
    assert many == one
    for name in ("data", "rejects", "manifest"):
        a, b = (getattr(kit.planned(path, lay, recipe).paths, name) for lay in (layout, other_root))
        assert digest_file(a) == digest_file(b)


def test_the_manifest_describes_the_files_beside_it(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(5))
    manifest = embed(kit, path, layout, recipe)
    folder = Path(layout.embeddings(recipe.digest))
    for entry in (manifest.data, manifest.rejects):
        file = folder / entry.name
        assert (file.stat().st_size, digest_file(str(file))) == (entry.size_bytes, entry.sha256)
        assert pq.read_metadata(file).num_rows == entry.rows
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [manifest.data.name, manifest.rejects.name, Path(kit.planned(path, layout, recipe).paths.manifest).name]
    )
    assert manifest.shard_digest == digest_file(str(path))
    assert manifest.config_digest == recipe.settings_digest


def test_a_committed_shard_is_left_alone(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(5))
    first = embed(kit, path, layout, recipe)
    paths = kit.planned(path, layout, recipe).paths
    Path(paths.data).unlink()
    encoder = kit.ProjectionEncoder()
    assert embed(kit, path, layout, recipe, encoder=encoder) == first
    assert encoder.batches == []
    assert not Path(paths.data).exists()


def test_killed_between_publishing_and_commit_the_next_run_writes_the_same(tmp_path, kit, layout, recipe, monkeypatch):
    path = kit.write_tar(tmp_path / "s.tar", mixed_members(kit))
    paths = kit.planned(path, layout, recipe).paths
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingManifest, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            embed(kit, path, layout, recipe)
    before = Path(paths.data).read_bytes()
    assert not Path(paths.manifest).exists()
    manifest = embed(kit, path, layout, recipe)
    assert Path(paths.data).read_bytes() == before
    assert EmbeddingManifest.read(paths.manifest) == manifest


def test_of_two_workers_on_one_shard_the_first_to_commit_stands(tmp_path, kit, layout, recipe, monkeypatch):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(5))
    paths = kit.planned(path, layout, recipe).paths
    publish = manifests.publish_file

    def publish_while_another_commits(local, url):
        publish(local, url)
        if url == paths.rejects:
            monkeypatch.setattr(manifests, "publish_file", publish)
            embed(kit, path, layout, recipe)

    monkeypatch.setattr(manifests, "publish_file", publish_while_another_commits)
    manifest = embed(kit, path, layout, recipe)
    assert EmbeddingManifest.read(paths.manifest) == manifest
    assert digest_file(paths.data) == manifest.data.sha256


def test_a_worker_that_lost_with_other_bytes_says_so(tmp_path, kit, layout, recipe, monkeypatch):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(5))
    paths = kit.planned(path, layout, recipe).paths
    theirs = embed(kit, path, layout, recipe).model_dump(mode="json")
    theirs["data"]["sha256"] = "0" * 64
    Path(paths.manifest).unlink()
    publish = manifests.publish_file

    def publish_while_another_commits(local, url):
        publish(local, url)
        if url == paths.rejects:
            publish_bytes(encode_json(theirs), paths.manifest)

    monkeypatch.setattr(manifests, "publish_file", publish_while_another_commits)
    with pytest.raises(StaleError, match="another worker committed other bytes"):
        embed(kit, path, layout, recipe)


def test_an_encoder_that_is_not_the_planned_one_is_refused(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(2))
    other = dataclasses.replace(recipe, encoder="another")
    with pytest.raises(StaleError, match="planned for encoder another"):
        embed(kit, path, layout, other)


def test_a_cut_shard_keeps_its_good_part_and_says_where_it_broke(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(30))
    path.write_bytes(path.read_bytes()[: 15 * 3 * 1024])
    manifest = embed(kit, path, layout, recipe)
    refused = pq.read_table(kit.planned(path, layout, recipe).paths.rejects).to_pylist()
    assert 5 < manifest.counts.embedded < 30
    assert [(row["position"], row["stage"]) for row in refused] == [(-1, "read")]


def test_an_empty_shard_is_committed_with_two_empty_tables(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", [])
    manifest = embed(kit, path, layout, recipe)
    assert (manifest.counts.seen, manifest.data.rows, manifest.rejects.rows) == (0, 0, 0)
    [part] = read_parts([kit.planned(path, layout, recipe).paths.manifest], ["key"])
    assert part.vectors.shape == (0, 12)


def test_a_missing_shard_is_an_error_and_leaves_nothing(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(1))
    shard = kit.planned(path, layout, recipe)
    path.unlink()
    with Lanes(1) as lanes, pytest.raises(InputError, match="s.tar"):
        embed_shard(shard, kit.ProjectionEncoder(), recipe, lanes=lanes)
    assert not Path(layout.root).exists()


def test_rows_are_written_group_by_group_and_coarser_levels_with_them(tmp_path, kit, layout, recipe, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ROWS", 16)
    members = kit.picture_members(40)
    members[6:6] = [(f"lonely{n}.txt", b"x") for n in range(20)]  # rejects do not move the groups
    path = kit.write_tar(tmp_path / "s.tar", members)
    embed(kit, path, layout, recipe, encoder=kit.ProjectionEncoder({"embedding": 12, "embedding_4": 4}))
    metadata = pq.read_metadata(kit.planned(path, layout, recipe).paths.data)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [16, 16, 8]
    [part] = read_parts([kit.planned(path, layout, recipe).paths.manifest], ["key"], level="embedding_4")
    assert part.vectors.shape == (40, 4)


def test_progress_is_told_of_every_item_and_every_byte(tmp_path, kit, layout, recipe):
    path = kit.write_tar(tmp_path / "s.tar", mixed_members(kit))
    before = progress.reading()
    embed(kit, path, layout, recipe)
    after = progress.reading()
    assert after.items - before.items == 66
    assert after.done - before.done == path.stat().st_size
