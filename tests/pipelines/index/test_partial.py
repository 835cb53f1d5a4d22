"""Partial indexes merged are the index one process would have filled, byte for byte; killed anywhere, filled once."""

from pathlib import Path

import faiss
import pytest

from pipelines.index import build, job, partial, training
from pipelines.index.lists import merge_lists, write_lists
from pipelines.index.parts import Parts
from pipelines.index.plan import plan_index
from pipelines.index.proposal import Proposal
from pipelines.index.trained import ensure_trained, open_trained
from pipelines.index.transforms import fill_partials
from schemas.errors import InputError, LedgerError
from schemas.jobs import Runner
from schemas.manifests import TrainedManifest

KEYS = ["IVF8,Flat", "IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "PCA8,IVF4,SQ8", "IVF4_HNSW4,PQ4x4"]


def ready(world, key: str):
    plan = plan_index(world.with_index(key=key), world.parts, world.queries_url)
    proposal = Proposal(key, "test", 0)
    where, index = ensure_trained(world.job.layout, plan, proposal, train_rows=300, seed=3)
    return plan, proposal, where, index


def bytes_of(index) -> bytes:
    return faiss.serialize_index(index).tobytes()


@pytest.mark.parametrize("key", KEYS)
def test_merged_parts_are_what_one_process_fills(world, tmp_path, key):
    plan, proposal, where, index = ready(world, key)
    planned = partial.plan_partials(world.job.layout, where.digest, plan.part_urls, plan.levels[0])
    counted = fill_partials(planned, where, runner=Runner(beam_args=("--direct_runner_bundle_repeat=1",)))
    assert counted["parts-skipped"] == len(planned)  # of the replay, the last that counts: no part is filled twice
    merge_lists([partial.data_of(one) for one in planned], tmp_path / "merged", index=index, whole=True)
    whole = build.build(plan, proposal, train_rows=300, seed=3)
    build.write(whole, tmp_path / "whole")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    assert index.ntotal == faiss.extract_index_ivf(index).ntotal == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"merged", "whole"}


def test_a_trained_index_is_made_once_and_is_empty(world, monkeypatch):
    plan, proposal, where, index = ready(world, KEYS[1])
    assert index.ntotal == 0
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    again, found = ensure_trained(world.job.layout, plan, proposal, train_rows=300, seed=3)
    assert again == where
    assert bytes_of(found) == bytes_of(index) == bytes_of(open_trained(where))
    assert TrainedManifest.read(where.manifest_url).key == KEYS[1]


def test_killed_while_filling_the_rest_is_filled_and_nothing_twice(world, monkeypatch):
    made = world.with_index(key=KEYS[1], recall_target=0.01)
    manifest = Path(job.run(made, world.parts, world.queries_url))
    [folder] = Path(world.job.layout.root).glob("trained/toy/*")
    before = {path: path.read_bytes() for path in [*folder.iterdir(), *manifest.parent.iterdir()]}
    lost = sorted(folder.glob("*.lists"))
    assert len(lost) == len(world.parts)
    lost[0].with_suffix(".json").unlink()  # killed between the data and its manifest
    lost[1].with_suffix(".json").unlink()
    lost[1].unlink()  # killed before
    manifest.unlink()
    written = []
    original = partial.write_lists
    monkeypatch.setattr(partial, "write_lists", lambda lists, path: (written.append(path), original(lists, path)))
    job.run(made, world.parts, world.queries_url)
    assert len(written) == 2
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {"timings.json"}


def test_a_workbench_is_empty_again_also_after_a_failure(world, monkeypatch):
    plan, _, where, index = ready(world, KEYS[0])
    planned = partial.plan_partials(world.job.layout, where.digest, plan.part_urls, plan.levels[0])
    few = [block for block in Parts((planned[0].part,), planned[0].level)]
    monkeypatch.setattr(partial, "Parts", lambda *_: [type(few[0])(few[0].ids[:-1], few[0].vectors[:-1])])
    with pytest.raises(LedgerError, match="vectors went into its partial index"):
        partial.fill_partial(planned[0], index)
    assert index.ntotal == 0


def test_a_damaged_file_and_one_of_another_index_are_refused(world, tmp_path):
    _, _, _, index = ready(world, KEYS[0])
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not inverted lists"):
        merge_lists([tmp_path / "bad"], tmp_path / "merged", index=index, whole=True)
    other = faiss.index_factory(world.vectors.shape[1], "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    other.train(world.vectors[:50])
    write_lists(faiss.extract_index_ivf(other).invlists, tmp_path / "other")
    with pytest.raises(InputError, match="2 lists of"):
        merge_lists([tmp_path / "other"], tmp_path / "merged", index=index, whole=True)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("key", "can"),
    [("Flat", False), ("HNSW8", False), ("IVF2,Flat", True), ("PCA4,IVF2,SQ8", True), ("IVF2,Flat,RFlat", False)],
)
def test_kinds_that_keep_more_than_lists_are_filled_by_one_process(key, can):
    index = faiss.index_factory(8, key, faiss.METRIC_INNER_PRODUCT)
    assert partial.can_be_partial(index) is can
    if key == "Flat":
        assert partial.can_be_partial(faiss.IndexIDMap2(index)) is can
