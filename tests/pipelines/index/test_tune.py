"""The promise: recall on text queries, the cheapest point that keeps it, or a refusal that says why."""

import io
from pathlib import Path

import faiss
import numpy as np
import pytest

from pipelines.index import partial
from pipelines.index import tune as tune_module
from pipelines.index.job import run
from pipelines.index.search import open_index, parse_point
from pipelines.index.truth import places_of, recall_within
from pipelines.index.tune import Times, interval, points, read_tuning, recall_of_each
from schemas.errors import IndexBuildError
from schemas.manifests import IndexManifest


def true_recall(world, url, parameters, rows, oracle):
    _, best = oracle(world.ids, world.vectors, world.queries[rows], 10)
    _, found = open_index(url).search(world.queries[rows], 10, point=parse_point(parameters))
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best.tolist(), found.tolist(), strict=True)])


def test_the_chosen_point_meets_the_target_and_one_step_less_does_not(world, oracle):
    url = run(world.job, world.parts, world.queries_url)
    tuning, times = read_tuning(url)
    names = [measured.parameters for measured in tuning.curve]
    place = names.index(tuning.chosen)
    assert place > 0
    fit = world.split == "fit"
    assert true_recall(world, url, names[place], fit, oracle) >= 0.95
    assert true_recall(world, url, names[place - 1], fit, oracle) < 0.95
    assert tuning.recall == pytest.approx(true_recall(world, url, tuning.chosen, fit, oracle))
    assert tuning.held_out.recall == pytest.approx(true_recall(world, url, tuning.chosen, ~fit, oracle))
    assert (tuning.tuned_on, tuning.queries, tuning.held_out.queries) == ("fit", 100, 100)
    assert all(m.low <= m.recall <= m.high for m in tuning.curve)
    assert [m.cost_bytes for m in tuning.curve] == sorted(m.cost_bytes for m in tuning.curve)
    assert set(times) == set(names)
    manifest = IndexManifest.read(url)
    assert (manifest.parameters, manifest.recall) == (tuning.chosen, tuning.recall)


def test_image_queries_leave_themselves_out(world, oracle):
    tuning, _ = read_tuning(run(world.job, world.parts, world.queries_url))
    first = tuning.curve[0]
    _, best = oracle(world.ids, world.vectors, world.vectors, 11)
    _, found = open_index(world.job.layout.index(index_digest(world))).search(world.vectors, 11, point={"nprobe": 1})
    shares = []
    for own, a, b in zip(world.ids.tolist(), best.tolist(), found.tolist(), strict=True):
        shares.append(len(({*a} - {own}) & {*[x for x in b if x != own][:10]}) / 10)
    assert first.image_recall == pytest.approx(np.mean(shares), abs=1e-6)
    assert tuning.image_queries == 600


def index_digest(world):
    from pipelines.index.plan import plan_index

    return plan_index(world.job, world.parts, world.queries_url).digest


def test_with_few_fit_queries_all_are_used_and_nothing_is_held_out(make):
    world = make(queries=80)
    tuning, _ = read_tuning(run(world.job, world.parts, world.queries_url))
    assert (tuning.tuned_on, tuning.queries, tuning.held_out) == ("all", 80, None)


def test_harsh_codes_are_named_when_they_put_the_target_out_of_reach(world):
    with pytest.raises(
        IndexBuildError, match=r"'IVF16,PQ2x4'.*even with all 16 lists probed the compressed codes"
    ) as e:
        run(world.with_index(key="IVF16,PQ2x4"), world.parts, world.queries_url)
    assert "'IVF16,PQ2x4'" in str(e.value)
    assert "index.max_memory of" in str(e.value)


@pytest.mark.parametrize("key", ["Flat", "IVF1,Flat", "HNSW16", "IVF16_HNSW8,Flat", "PCA12,IVF8,Flat,RFlat"])
def test_other_kinds_are_tuned_at_their_own_knobs(world, key, oracle):
    url = run(world.with_index(key=key), world.parts, world.queries_url)
    tuning, _ = read_tuning(url)
    names = {
        "Flat": "",
        "IVF1,Flat": "nprobe",
        "HNSW16": "efSearch",
        "IVF16_HNSW8,Flat": "nprobe,quantizer_efSearch",
        "PCA12,IVF8,Flat,RFlat": "nprobe,k_factor_rf",
    }[key]
    assert ",".join(parse_point(tuning.chosen)) == names
    assert true_recall(world, url, tuning.chosen, world.split == "fit", oracle) >= 0.95


def test_points_end_with_everything_probed(world):
    searcher = open_index(run(world.job, world.parts, world.queries_url))
    assert [p["nprobe"] for _, p in points(searcher.index, 10)] == [1, 2, 3, 4, 6, 8, 12, 16]


def test_points_that_look_at_fewer_items_than_are_wanted_are_left_out(world):
    run(world.job, world.parts, world.queries_url)
    index = open_index(world.job.layout.index(index_digest(world))).index  # 600 items in 16 lists
    assert [p["nprobe"] for _, p in points(index, 10, least=38)] == [2, 3, 4, 6, 8, 12, 16]
    assert [p["nprobe"] for _, p in points(index, 10, least=301)] == [12, 16]
    assert [p["nprobe"] for _, p in points(index, 10, least=9999)] == [16]
    graph = faiss.index_factory(4, "HNSW8")
    graph.add(np.eye(4, dtype=np.float32).repeat(100, axis=0))
    assert [p["efSearch"] for _, p in points(graph, 10, least=100)] == [128, 192, 256, 384, 400]


def test_an_item_tied_with_the_last_neighbour_counts_as_found():
    scores = np.array([[0.9, 0.5, 0.5, 0.5, 0.1]], np.float32)
    ids = np.array([[1, 2, 3, 4, 5]])
    assert recall_of_each(np.array([[1, 4]]), scores, ids, 2).tolist() == [1.0]
    assert recall_of_each(np.array([[1, 5]]), scores, ids, 2).tolist() == [0.5]
    assert recall_of_each(np.array([[2, 3, 4]]), scores, ids, 3).tolist() == [1.0]
    assert recall_of_each(np.array([[9]]), scores[:, :1], ids[:, :1], 10).tolist() == [0.0]


def test_the_interval_is_wilsons():
    assert interval(np.array([1.0] * 8 + [0.0] * 2)) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-6)
    assert interval(np.ones(100))[1] == pytest.approx(0.963005, abs=1e-5)


def test_a_latency_budget_leaves_slow_points_out_or_says_what_binds(world, monkeypatch):
    def timed(search, queries, k, point):
        return Times(0.01, 0.1 * point["nprobe"])

    monkeypatch.setattr(tune_module, "_times", timed)
    free, _ = read_tuning(run(world.job, world.parts, world.queries_url))
    nprobe = parse_point(free.chosen)["nprobe"]
    within, _ = read_tuning(run(world.with_index(latency_budget_ms=0.1 * nprobe), world.parts, world.queries_url))
    assert within.chosen == free.chosen
    with pytest.raises(IndexBuildError, match=rf"takes .* ms a query at {free.chosen}, .*\(at nprobe=.* within it\)"):
        run(world.with_index(latency_budget_ms=0.1 * nprobe - 0.05), world.parts, world.queries_url)
    with pytest.raises(IndexBuildError, match="no point is so fast"):
        run(world.with_index(latency_budget_ms=0.01), world.parts, world.queries_url)


def test_an_index_whose_ids_are_mixed_up_is_refused(world, monkeypatch):
    original = partial.Parts

    def mixed(*arguments):
        for block in original(*arguments):
            yield block._replace(ids=block.ids[::-1].copy())

    monkeypatch.setattr(partial, "Parts", mixed)
    job = world.with_index(recall_target=1e-9)
    with pytest.raises(IndexBuildError, match="ids and vectors do not belong together"):
        run(job, world.parts, world.queries_url)


def test_every_item_finds_itself(world):
    url = run(world.job, world.parts, world.queries_url)
    assert IndexManifest.read(url).self_recall == 1.0


def test_a_damaged_memo_of_neighbours_is_made_again(world):
    url = run(world.job, world.parts, world.queries_url)
    [memo] = Path(world.job.layout.root).glob("cache/truth/toy/*.npz")
    whole = memo.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"PK\x03\x04nothing"):
        memo.write_bytes(damaged)
        Path(url).unlink()
        assert run(world.job, world.parts, world.queries_url) == url
        with np.load(memo) as again, np.load(io.BytesIO(whole)) as before:
            assert set(again) == set(before)
            assert all(np.array_equal(again[name], before[name]) for name in before)


def test_places_and_recall_within_are_those_of_counting():
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.random((50, 9)).astype(np.float32), axis=1)
    scores[:, 4] = scores[:, 3]  # ties with the k-th
    exact = np.array([rng.permutation(40)[:9] for _ in range(50)])
    found = np.array([rng.permutation(40)[:25] for _ in range(50)])
    found[0, 5:] = -1
    places = places_of(found, scores, exact, 4)
    for depth in (1, 4, 10, 25):
        expected = [
            min(4, len({*row[:depth]} & {item for item, score in zip(items, of, strict=True) if score >= of[3] - 1e-6}))
            / 4
            for row, items, of in zip(found.tolist(), exact.tolist(), scores, strict=True)
        ]
        np.testing.assert_allclose(recall_within(places, depth, 4), expected)
