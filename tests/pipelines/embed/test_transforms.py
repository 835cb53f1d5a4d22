"""The Beam wiring: all good, one bad, none; counters add up; a replay changes no byte; errors come out as they were."""

import functools
from pathlib import Path

import pytest

from pipelines.embed.transforms import embed_shards
from schemas.errors import InputError, ModelError
from schemas.jobs import Runner
from schemas.manifests import EmbeddingManifest


def shards_of(kit, folder: Path, layout, recipe, count: int = 3):
    paths = [
        kit.write_tar(folder / f"s-{n}.tar", [*kit.picture_members(10 + n, start=100 * n), ("bad.jpg", b"no")])
        for n in range(count)
    ]
    return [kit.planned(path, layout, recipe) for path in paths]


def run(kit, shards, recipe, *, beam_args=(), load=None):
    load = load or functools.partial(kit.ProjectionEncoder)
    return embed_shards(shards, recipe, load=load, runner=Runner(beam_args=tuple(beam_args)), lanes=2)


def contents(root: str) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(Path(root).rglob("*")) if p.is_file()}


def test_every_shard_is_embedded_and_counted(tmp_path, kit, layout, recipe):
    shards = shards_of(kit, tmp_path, layout, recipe)
    counters = run(kit, shards, recipe)
    assert counters["shards"] == 3
    assert counters["seen"] == 10 + 11 + 12 + 3
    assert counters["seen"] == counters["embedded"] + counters["rejected"]
    assert counters["rejected"] == 3
    assert [EmbeddingManifest.read(shard.paths.manifest).counts.embedded for shard in shards] == [10, 11, 12]


def test_committed_shards_are_skipped_and_nothing_changes(tmp_path, kit, layout, recipe):
    shards = shards_of(kit, tmp_path, layout, recipe)
    run(kit, shards[:1], recipe)
    assert run(kit, shards, recipe)["shards"] == 2
    before = contents(layout.root)
    assert run(kit, shards, recipe) == {"shards-skipped": 3}
    assert contents(layout.root) == before


def test_replayed_bundles_change_no_byte(tmp_path, kit, layout, recipe):
    shards = shards_of(kit, tmp_path, layout, recipe)
    run(kit, shards, recipe)
    once = contents(layout.root)
    for file in Path(layout.root).rglob("*.*"):
        file.unlink()
    run(kit, shards, recipe, beam_args=["--direct_runner_bundle_repeat=1"])
    assert contents(layout.root) == once


def test_no_shards_are_no_work(kit, recipe):
    assert run(kit, [], recipe) == {}


def test_a_shard_that_cannot_be_opened_fails_the_job_by_its_name_and_the_others_stand(tmp_path, kit, layout, recipe):
    shards = shards_of(kit, tmp_path, layout, recipe)
    Path(shards[1].url).unlink()
    with pytest.raises(InputError, match="s-1.tar"):
        run(kit, shards, recipe)
    shards[1] = shards_of(kit, tmp_path, layout, recipe)[1]
    run(kit, shards, recipe)
    assert all(Path(shard.paths.manifest).exists() for shard in shards)


def refuse_to_load():
    raise ModelError("weights: expected safetensors")


def test_a_model_that_cannot_be_loaded_is_said_as_it_was(tmp_path, kit, layout, recipe):
    with pytest.raises(ModelError, match="^weights: expected safetensors"):
        run(kit, shards_of(kit, tmp_path, layout, recipe, 1), recipe, load=refuse_to_load)


def test_the_model_is_loaded_once(tmp_path, kit, layout, recipe):
    marks = tmp_path / "marks"
    marks.mkdir()

    def load():
        (marks / str(len(list(marks.iterdir())))).touch()
        return kit.ProjectionEncoder()

    shards = shards_of(kit, tmp_path, layout, recipe)
    run(kit, shards, recipe, load=load, beam_args=["--direct_runner_bundle_repeat=1"])
    assert len(list(marks.iterdir())) == 1
