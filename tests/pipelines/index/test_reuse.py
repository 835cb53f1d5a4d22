"""An index that takes in what changed: against brute force over what is live, and against one made anew."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipelines.index import job as index_job
from pipelines.index import reuse, training
from pipelines.index.job import run
from pipelines.index.levels import open_coarse_to_fine
from pipelines.index.plan import Base, plan_index
from pipelines.index.search import open_index
from pipelines.index.truth import find_truths
from schemas.configs import Append, Index
from schemas.errors import IndexBuildError, InputError
from schemas.ids import item_id
from schemas.layout import Layout
from schemas.manifests import EmbeddingManifest, IndexManifest, Lineage
from tests.pipelines.index.conftest import World, unit, write_part, write_queries

LENIENT = Append(max_unmerged=1, max_changed=1, max_error_ratio=100, max_imbalance_ratio=100)


@dataclass
class Days:
    """What is in the dataset from day to day: parts by name, their items as brute force sees them."""

    world: World
    settings: dict[str, object] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    items: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    served: Base | None = None

    def __post_init__(self) -> None:
        cuts = [0, 100, 300, 600]
        for number, (url, a, b) in enumerate(zip(self.world.parts, cuts, cuts[1:], strict=False)):
            self.parts[f"s{number}"] = url
            self.items[f"s{number}"] = self.world.ids[a:b], self.world.vectors[a:b]

    def put(self, name: str, vectors: np.ndarray, keys: list[str] | None = None, coarse: int = 0) -> str:
        """A new or changed part; `name` may be that of one that goes."""
        keys = keys or [f"{name}-{row}" for row in range(len(vectors))]
        levels = {f"embedding_{coarse}": unit(vectors[:, :coarse])} if coarse else None
        shard = f"{name}.{len(list(Path(self.world.job.layout.root).rglob('*.json')))}"
        self.parts[name] = write_part(self.world.job.layout, shard, vectors, keys=keys, coarse=levels)
        ids = np.array([item_id("toy", key) for key in keys], np.int64)
        self.items[name] = ids, vectors.astype(np.float16).astype(np.float32)
        return self.parts[name]

    def drop(self, name: str) -> None:
        del self.parts[name], self.items[name]

    def build(self, queries: str | None = None) -> IndexManifest:
        job = self.world.with_index(**{"append": LENIENT, **self.settings})
        parts = list(self.parts.values())
        url = run(job, parts, queries or self.world.queries_url, self.served)
        self.served = Base(url, tuple(parts))
        return IndexManifest.read(url)

    def search(self, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        searcher = open_index(self.served.manifest)
        through = open_coarse_to_fine(self.served.manifest, searcher)
        if through is not None:
            columns = searcher.manifest.levels.columns
            return through.search([self.world.coarse_queries.get(c, self.world.queries) for c in columns], k)
        return searcher.search(self.world.queries, k, point={"nprobe": 16})

    def expected(self, oracle, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        ids, vectors = (np.concatenate([one[axis] for one in self.items.values()]) for axis in (0, 1))
        return oracle(ids, vectors, self.world.queries, k)


def new_vectors(rows: int, seed: int = 3, dim: int = 16) -> np.ndarray:
    centres = np.random.default_rng(7).normal(size=(24, dim))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, 24, rows)] + 0.6 * rng.normal(size=(rows, dim)))


@pytest.fixture
def days(world) -> Days:
    return Days(world)


def same(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)


def untrainable(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


def test_new_items_are_appended_without_a_look_at_the_old_ones(days, oracle, monkeypatch):
    first = days.build()
    for url in days.world.parts:  # their vectors are gone; the manifests and the index are there
        Path(url).with_name(EmbeddingManifest.read(url).data.name).unlink()
    monkeypatch.setattr(training, "train", untrainable)
    days.put("new", new_vectors(20))
    second = days.build()
    assert second.rows == 620
    assert [segment.live for segment in second.segments] == [600, 20]
    assert second.segments[0].lists.sha256 == first.segments[0].lists.sha256
    assert second.segments[0].lists.name.startswith("../")
    assert not Path(days.served.manifest).with_name("index.faiss").exists()
    assert (second.lineage.trained, second.lineage.changed) == (first.lineage.trained, 20)
    same(days.search(), days.expected(oracle))


def test_a_week_of_changes_answers_as_brute_force_over_what_is_alive(days, oracle):
    days.build()
    days.put("a", new_vectors(30, 1))
    days.build()
    days.put("s0", new_vectors(100, 2), keys=[f"s0-{row}" for row in range(100)])  # the same keys, other pictures
    changed = days.build()
    assert [segment.deleted for segment in changed.segments] == [100, 0, 0]
    same(days.search(), days.expected(oracle))
    days.drop("a")
    gone = days.build()  # all of a segment is deleted: it is left out
    assert [segment.live for segment in gone.segments] == [500, 100]
    same(days.search(), days.expected(oracle))
    days.put("a", new_vectors(30, 1))  # back again
    days.put("b", new_vectors(5, 4))
    days.drop("s1")
    days.build()
    same(days.search(), days.expected(oracle))
    everything = sum(len(ids) for ids, _ in days.items.values())
    _, ids = days.search(everything)
    live = np.concatenate([ids for ids, _ in days.items.values()])
    assert set(ids[0].tolist()) == set(live.tolist())


@pytest.mark.parametrize("settings", [{"refine": True, "key": "IVF8,PQ4x4"}, {"key": "OPQ8_16,IVF8_HNSW4,PQ8x8"}])
def test_compressed_kinds_are_appended_to_as_well(make, oracle, settings):
    world = make()
    days = Days(world, {**settings, "recall_target": 0.6, "train_rows": 600})
    days.build()
    days.put("s1", new_vectors(200, 2), keys=[f"s1-{row}" for row in range(200)])
    built = days.build()
    assert [segment.live for segment in built.segments] == [400, 200]
    scores, ids = days.search()
    expected_scores, expected = days.expected(oracle)
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), expected.tolist(), strict=True)])
    assert hits >= 0.6
    if settings.get("refine"):  # then scores are those of the vectors themselves
        found = {
            (row, i): s
            for row, (s_, i_) in enumerate(zip(scores, ids, strict=True))
            for s, i in zip(s_, i_, strict=True)
        }
        for row in range(len(ids)):
            for score, item in zip(expected_scores[row], expected[row], strict=True):
                assert found.get((row, item), score) == pytest.approx(score, abs=1e-6)


def test_coarse_to_fine_is_appended_to_as_well(make, oracle):
    world = make(coarse=(8,), key="IVF8,Flat")
    days = Days(world, {"key": "IVF8,Flat", "shortlist": (300,)})
    days.build()
    days.put("new", new_vectors(40), coarse=8)
    days.put("s0", new_vectors(100, 2), keys=[f"s0-{row}" for row in range(100)], coarse=8)
    built = days.build()
    assert [len(segment.vectors) for segment in built.segments] == [1, 1]
    _, ids = days.search()
    _, expected = days.expected(oracle)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), expected.tolist(), strict=True)]) > 0.95


def test_nothing_new_is_the_index_that_is_there(days, monkeypatch):
    days.build()
    days.put("new", new_vectors(20))
    days.build()
    url = days.served.manifest
    monkeypatch.setattr(index_job._Making, "make", untrainable)
    days.build()
    assert days.served.manifest == url


@pytest.mark.parametrize("key", ["Flat", "HNSW8"])
def test_other_queries_of_a_kind_without_lists(make, oracle, key):
    days = Days(make(), {"key": key, "recall_target": 0.9})
    first = days.build()
    layout = Layout(days.world.job.layout.root + "/other", "toy")
    second = days.build(write_queries(layout, days.world.queries[::-1].copy(), days.world.split.tolist()))
    assert second.queries != first.queries
    assert second.segments[0].lists.name.startswith("../")
    found = open_index(days.served.manifest).search(days.world.queries, 10)
    assert np.mean(found[1] == days.expected(oracle)[1]) > 0.9
    days.put("new", new_vectors(20))
    assert len(days.build().segments) == 1  # nothing can be appended to it


def test_other_queries_alone_change_the_tuning_alone(days):
    first = days.build()
    rng = np.random.default_rng(1)
    layout = Layout(days.world.job.layout.root + "/other", "toy")
    queries = write_queries(layout, unit(rng.normal(size=(200, 16))), days.world.split.tolist())
    second = days.build(queries)
    assert second.queries != first.queries
    assert [entry.lists.sha256 for entry in second.segments] == [first.segments[0].lists.sha256]
    assert {path.name for path in Path(days.served.manifest).parent.iterdir()} == {
        "manifest.json",
        "truth.npz",
        "tuning.json",
        "timings.json",
    }


def test_with_too_much_beside_the_lists_they_are_merged_with_the_same_centroids(days, oracle, monkeypatch):
    days.settings["append"] = LENIENT.model_copy(update={"max_unmerged": 0.1})
    first = days.build()
    monkeypatch.setattr(training, "train", untrainable)
    days.put("a", new_vectors(50))
    assert len(days.build().segments) == 2
    days.put("b", new_vectors(50, 5))
    days.drop("s0")
    merged = days.build()
    assert len(merged.segments) == 1
    assert merged.tombstones is None
    assert merged.rows == 600
    assert (merged.lineage.trained, merged.lineage.changed) == (first.lineage.trained, 200)
    same(days.search(), days.expected(oracle))


def test_with_too_many_segments_they_are_merged(days):
    days.settings["append"] = LENIENT.model_copy(update={"max_segments": 2})
    days.build()
    for number, segments in enumerate((2, 3, 1, 2)):
        days.put(f"n{number}", new_vectors(5, number))
        assert len(days.build().segments) == segments


@pytest.mark.parametrize(
    ("limits", "vectors", "why"),
    [
        ({"max_changed": 0.1}, new_vectors(70), "70 items came or went since it was trained for 600"),
        ({"max_error_ratio": 1.1}, unit(np.random.default_rng(0).normal(size=(70, 16))), "quantization error"),
        ({"max_imbalance_ratio": 1.2}, unit(np.ones((200, 16)) + 1e-2 * new_vectors(200)), "imbalance of the lists"),
    ],
)
def test_items_that_drift_away_have_it_trained_anew(days, caplog, limits, vectors, why):
    key = "IVF16,Flat" if "max_error_ratio" not in limits else "IVF16,PQ8x4"
    days.settings |= {"append": LENIENT.model_copy(update=limits), "key": key, "recall_target": 0.3}
    first = days.build()
    days.put("new", vectors)
    with caplog.at_level("INFO", logger="pipelines"):
        second = days.build()
    assert why in caplog.text
    assert second.lineage.trained != first.lineage.trained
    assert second.lineage.changed == 0
    assert len(second.segments) == 1


def test_what_outgrows_the_memory_is_trained_anew(days, caplog):
    days.settings["max_memory"] = "50KB"
    days.build()
    days.put("new", new_vectors(150))
    # The key is set in the config here; where it is not, a smaller one is proposed.
    with caplog.at_level("INFO", logger="pipelines"), pytest.raises(IndexBuildError, match=r"max_memory is 50KB"):
        days.build()
    assert "training anew: IVF16,Flat would take more than index.max_memory by now" in caplog.text


def test_an_append_that_loses_the_recall_is_trained_anew(days, caplog, monkeypatch):
    first = days.build()
    days.put("new", new_vectors(20))
    original, calls = index_job._Making._measured, []

    def failing(self, *arguments, start=None, **named):
        calls.append(start)
        if start is not None:
            raise IndexBuildError("out of reach")
        return original(self, *arguments, start=start, **named)

    monkeypatch.setattr(index_job._Making, "_measured", failing)
    second = days.build()
    assert len(calls) == 2
    assert "training anew: out of reach" in caplog.text
    assert second.lineage.trained != first.lineage.trained
    assert {path.name for path in Path(days.served.manifest).parent.iterdir()} == {
        "index.faiss",
        "ids.npy",
        "manifest.json",
        "truth.npz",
        "tuning.json",
        "timings.json",
    }


@pytest.mark.parametrize("unmerged", [1, 0])
def test_an_item_that_is_there_already_is_refused(days, unmerged):
    days.settings["append"] = LENIENT.model_copy(update={"max_unmerged": unmerged})
    days.build()
    days.put("new", new_vectors(3), keys=["new-0", "s1-5", "new-2"])
    with pytest.raises(InputError, match=r"used 2 times: s1-5 in new.*, and in the index already"):
        days.build()


def test_what_was_made_otherwise_is_no_base(days):
    days.build()
    days.put("new", new_vectors(3))
    parts = list(days.parts.values())

    def change(**settings):
        job = days.world.with_index(**{"append": LENIENT, **settings})
        return plan_index(job, parts, days.world.queries_url, days.served).change

    assert change() is not None
    assert change(recall_target=0.9) is None
    assert change(append=Append(enabled=False)) is None
    gone = days.served._replace(parts=days.served.parts[:-1])
    assert plan_index(days.world.with_index(append=LENIENT), parts, days.world.queries_url, gone).change is None


def test_killed_before_the_manifest_the_next_run_leaves_the_same_bytes(days, monkeypatch):
    days.build()
    base = days.served
    days.put("new", new_vectors(20))
    days.drop("s0")
    days.build()
    folder = Path(days.served.manifest).parent

    def files() -> dict[str, bytes]:
        found = [path for path in folder.rglob("*") if path.is_file() and path.name != "timings.json"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

    before = files()
    (folder / "manifest.json").unlink()
    (folder / "tuning.json").write_bytes(b"half")
    days.served = base
    days.build()
    assert files() == before
    assert set(before) == {
        "1/items.lists",
        "1/ids.npy",
        "tombstones.parquet",
        "truth.npz",
        "tuning.json",
        "manifest.json",
    }


def test_a_moved_folder_of_indexes_opens_as_before(days, oracle, tmp_path):
    days.build()
    days.put("new", new_vectors(20))
    days.build()
    before = Path(days.served.manifest)
    shutil.move(before.parents[1], tmp_path / "moved")
    days.served = days.served._replace(manifest=str(tmp_path / "moved" / before.parent.name / "manifest.json"))
    same(days.search(), days.expected(oracle))


def test_shards_answer_as_one_index_does(days, oracle):
    one = days.build()
    days.settings["shards"] = 2
    days.served = None
    two = days.build()
    assert [segment.ids.rows for segment in two.segments] in ([400, 200], [300, 300], [500, 100])
    assert two.lineage.trained == one.lineage.trained
    same(days.search(), days.expected(oracle))
    days.put("new", new_vectors(20))
    days.drop("s0")
    three = days.build()
    assert len(three.segments) == 3
    assert sum(segment.deleted for segment in three.segments) == 100
    same(days.search(), days.expected(oracle))


def test_neighbours_carried_over_are_those_of_a_search_anew(days, tmp_path):
    days.build()
    days.put("new", new_vectors(60))
    days.drop("s0")
    job = days.world.with_index(append=LENIENT)
    plan = plan_index(job, list(days.parts.values()), days.world.queries_url, days.served)
    config = job.dataset.index
    carried, _ = find_truths(plan, config, layout=job.layout)
    anew, _ = find_truths(plan._replace(change=None), config, layout=Layout(str(tmp_path / "nothing"), "toy"))
    for mine, theirs in ((carried.tune, anew.tune), (carried.test, anew.test)):
        width = mine.ids.shape[1]
        assert width >= 20
        np.testing.assert_array_equal(mine.ids, theirs.ids[:, :width])
        np.testing.assert_array_equal(mine.scores, theirs.scores[:, :width])
        np.testing.assert_array_equal(mine.queries[0], theirs.queries[0])
    gone = set(days.world.ids[:100].tolist())
    assert not gone & set(carried.image.own.tolist())
    assert len(carried.image.own) < 600
    assert not gone & set(carried.image.ids.reshape(-1).tolist())


def test_queries_without_a_past_wait_unless_they_are_many(days):
    days.build()
    days.put("new", new_vectors(20))
    rng = np.random.default_rng(1)
    for fresh, tuned in ((6, (94, 100)), (60, (100, 100))):
        queries = days.world.queries.copy()
        queries[:fresh] = unit(rng.normal(size=(fresh, 16)))
        layout = Layout(f"{days.world.job.layout.root}/{fresh}", "toy")
        url = write_queries(layout, queries, days.world.split.tolist())
        job = days.world.with_index(append=LENIENT)
        plan = plan_index(job, list(days.parts.values()), url, days.served)
        found, _ = find_truths(plan, job.dataset.index, layout=job.layout)
        assert tuned[0] <= len(found.tune.ids) <= tuned[1]
        known = {vector.tobytes() for vector in days.world.queries}
        assert all(vector.tobytes() in known for vector in found.tune.queries[0]) is (fresh == 6)


def test_reasons_are_for_people():
    lineage = Lineage(trained="t", rows=100, error=0.1, imbalance=1.5)
    assert reuse.drifted(lineage, error=0.12, imbalance=2.0, config=Index()) is None
    assert "0.1300" in (reuse.drifted(lineage, error=0.13, imbalance=2.0, config=Index()) or "")
    nothing = lineage.model_copy(update={"error": 0.0})  # of whole vectors
    assert reuse.drifted(nothing, error=0.0, imbalance=1.0, config=Index()) is None


def test_timings_say_where_the_time_went(days):
    days.build()
    found = json.loads(Path(days.served.manifest).with_name("timings.json").read_text())
    assert set(found["seconds"]) == {"check", "train", "fill", "merge", "tune"}
    assert set(found["ms_alone"]) == set(found["ms_per_query"])
