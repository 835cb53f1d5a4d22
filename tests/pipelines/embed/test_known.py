"""A changed shard: what has the same content keeps its vector, whatever its caption, its key and its place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.embed.job import run
from pipelines.embed.known import Known
from pipelines.embed.lanes import Lanes
from pipelines.embed.plan import difference, plan
from pipelines.embed.shard import embed_shard
from schemas.configs import Captions, DatasetConfig, Embed, EncoderConfig
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest


@pytest.fixture
def days(tmp_path, kit, layout, recipe):
    """Embeds versions of one shard, each with the version before as what is known."""

    class Days:
        earlier = None

        def embed(self, members, recipe=recipe, encoder=None):
            self.encoder = encoder or kit.ProjectionEncoder()
            shard = kit.planned(kit.write_tar(tmp_path / "s.tar", members), layout, recipe)
            shard = replace(shard, earlier=self.earlier)
            with Lanes(2) as lanes:
                done = embed_shard(shard, self.encoder, recipe, lanes=lanes)
            self.earlier = shard.paths.manifest
            return done, pq.read_table(shard.paths.data).to_pylist()

        @property
        def encoded(self) -> int:
            return sum(shape[0] for shape in self.encoder.batches)

    return Days()


def test_new_captions_and_moved_pictures_cost_no_encoding(days, kit):
    members = [*kit.picture_members(20), ("clip.gif", kit.moving_gif(1)), ("clip.txt", b"it moves")]
    _, before = days.embed(members)
    changed = [("new.jpg", kit.jpeg(99)), ("new.txt", b"never seen")]
    for name, data in members[4:]:  # two pictures are gone, all others lie elsewhere
        changed.append((name, b"another caption" if name == "p000007.txt" else data))
    renamed = [("again.jpg", kit.jpeg(3)), ("again.txt", b"a known picture under another key")]
    done, rows = days.embed(changed + renamed)
    assert (done.manifest.counts.embedded, done.reused) == (21, 20)
    assert days.encoded == 1
    old = {row["key"]: row for row in before}
    now = {row["key"]: row for row in rows}
    assert now["p000007"]["captions"] == ["another caption"]
    same = ("embedding", "width", "height", "modality", "duration_s", "frame_times_s", "content_sha256")
    for key in now.keys() & old.keys():
        assert [now[key][name] for name in same] == [old[key][name] for name in same]
    assert now["again"]["embedding"] == old["p000003"]["embedding"]
    assert now["clip"]["frame_times_s"]


def test_the_rows_are_those_of_embedding_everything(days, kit):
    days.embed(kit.picture_members(20))
    _, rows = days.embed(kit.picture_members(24, start=8))
    days.earlier = None
    fresh, _ = days.embed([*kit.picture_members(24, start=8), ("x.txt", b"so that the digest is another")])
    expected = pq.read_table(fresh.manifest.data.url(days.earlier)).to_pylist()
    assert len(rows) == len(expected) == 24
    for one, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(one.pop("embedding"), other.pop("embedding"), atol=1e-3)
        assert one == other


def test_settings_that_change_a_vector_are_another_vector_and_others_are_not(days, kit, recipe):
    members = kit.picture_members(9)
    days.embed(members)
    limits = replace(recipe, embed=Embed(batch_size=4, max_pixels=10**6), captions=Captions(members=("json",)))
    assert days.embed(members, limits)[0].reused == 9
    for other in (Embed(frames=2), Embed(jpeg_scaling="exact")):
        assert days.embed(members, replace(recipe, embed=other))[0].reused == 0
    assert recipe.vectors_digest != replace(recipe, encoder="f" * 64).vectors_digest


@pytest.mark.parametrize(
    ("name", "limit", "reason"),
    [
        ("large.jpg", {"max_pixels": 2000}, "TooManyPixels"),
        ("large.jpg", {"max_image_bytes": 1200}, "TooManyBytes"),
        ("large.mp4", {"max_image_bytes": 1200}, "TooManyBytes"),  # a picture for all its name: read, then refused
        ("clip.gif", {"max_video_bytes": 1200}, "TooManyBytes"),  # the other way round
    ],
)
def test_what_is_known_but_beyond_a_lower_limit_is_refused_as_anything_new(days, kit, recipe, name, limit, reason):
    data = kit.moving_gif(1) if name == "clip.gif" else kit.jpeg(50, width=80, height=60)
    small = kit.picture_members(4)
    assert len(data) > 1200 > max(len(member) for _, member in small)
    members = [*small, (name, data)]
    assert days.embed(members)[0].manifest.counts.embedded == 5
    done, _ = days.embed(members, replace(recipe, embed=Embed(batch_size=8, **limit)))
    assert (done.manifest.counts.embedded, done.manifest.counts.rejected, done.reused) == (4, 1, 4)
    assert pq.read_table(done.manifest.rejects.url(days.earlier))["error"].to_pylist() == [reason]


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_an_earlier_part_that_is_no_use_costs_time_alone(days, kit, tmp_path, harm, recipe, layout):
    done, _ = days.embed(kit.picture_members(9))
    data = Path(done.manifest.data.url(days.earlier))
    data.unlink() if harm == "gone" else data.write_bytes(b"no table")
    again, rows = days.embed(kit.picture_members(8))
    assert (again.reused, len(rows)) == (0, 8)
    shard = kit.planned(tmp_path / "s.tar", layout, recipe)
    assert Known.of(replace(shard, earlier=str(tmp_path / "nowhere.json")), recipe).items == {}


@pytest.fixture
def job(layout, tiny_clip) -> Job:
    config = DatasetConfig(name="tests", encoder="x", embed=Embed(batch_size=4, max_reject_fraction=0.9))
    return Job(config, EncoderConfig(path=str(tiny_clip), dtype="float32"), None, layout)


def test_the_plan_knows_the_part_of_the_same_shard(tmp_path, kit, job):
    pattern = str(tmp_path / "s-*.tar")
    for number in range(3):
        kit.write_tar(tmp_path / f"s-{number}.tar", kit.picture_members(3, start=10 * number))
    first = run(job, [pattern])
    kit.write_tar(tmp_path / "s-1.tar", kit.picture_members(4, start=10))
    wanted = plan(job, [pattern], first.manifests)
    assert difference(wanted, first.manifests) == (0, 1, 0, 2, False)
    assert difference(wanted, first.manifests[:2]) == (1, 1, 0, 1, False)
    assert difference(plan(job, [pattern.replace("*", "[01]")]), first.manifests) == (0, 1, 1, 1, False)
    assert str(difference(wanted, ["root/embeddings/x/y/s-0-0123.json"])).startswith("all 3 shards anew")
    [todo] = wanted.pending
    assert (todo.earlier, todo.again) == (first.manifests[1], False)
    second = run(job, [pattern], first.manifests)
    [old, new] = (pq.read_table(EmbeddingManifest.read(m).data.url(m)) for m in (todo.earlier, second.manifests[1]))
    assert new["embedding"].to_pylist()[:3] == old["embedding"].to_pylist()


def test_what_was_refused_is_tried_again_and_only_that(tmp_path, kit, job, monkeypatch):
    from pipelines.embed import encoding

    honest, failing = encoding.decode, {kit.jpeg(2), kit.jpeg(4)}

    def flaky(data, **given):
        if data in failing:
            raise encoding.SampleError("the disk has hiccups")
        return honest(data, **given)

    monkeypatch.setattr(encoding, "decode", flaky)
    for number in range(2):
        kit.write_tar(tmp_path / f"s-{number}.tar", kit.picture_members(6, start=10 * number))
    shards = [str(tmp_path / "s-*.tar")]
    first = run(job, shards)
    assert EmbeddingManifest.read(first.manifests[0]).counts.rejected == 2

    assert run(job, shards, replay=True).manifests == first.manifests  # they fail again: nothing is written
    failing.remove(kit.jpeg(2))
    second = run(job, shards, replay=True)
    assert second.manifests[0].endswith(".again1.json")
    assert second.manifests[1] == first.manifests[1]
    assert EmbeddingManifest.read(second.manifests[0]).counts.rejected == 1
    failing.clear()
    third = run(job, shards, replay=True)
    assert third.manifests[0].endswith(".again2.json")
    last = EmbeddingManifest.read(third.manifests[0])
    assert (last.counts.embedded, last.counts.rejected) == (6, 0)
    assert run(job, shards).manifests == run(job, shards, replay=True).manifests == third.manifests
    keys = pq.read_table(last.data.url(third.manifests[0]))["key"].to_pylist()
    assert keys == [f"p{number:06d}" for number in range(6)]
