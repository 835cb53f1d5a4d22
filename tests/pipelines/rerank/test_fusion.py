"""Fusion, ranks and beta against loops over pairs, and TREC text against the one-row-at-a-time writer."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rerank import fusion
from pipelines.rerank.fusion import GRID, Pairs, fit_beta, fuse, qrels_lines, rank, relevant_pairs, run_lines
from schemas.rankings import JUDGEMENTS, trec_qrels, trec_run


def pairs(*queries: list[tuple[float, float | None]]) -> Pairs:
    """(fast, slow or None) of each candidate, in fast order, for queries 0, 1, ...; item ids count up."""
    rows = [
        (query, place, fast, np.nan if slow is None else slow)
        for query, some in enumerate(queries)
        for place, (fast, slow) in enumerate(some, start=1)
    ]
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return Pairs(
        np.array(columns[0], np.int64),
        np.arange(len(rows)),
        np.array(columns[1], np.int32),
        np.array(columns[2], np.float32),
        np.array(columns[3], np.float32),
    )


scores = st.one_of(st.none(), st.integers(-3, 3).map(float))
worlds = st.lists(st.lists(scores, min_size=1, max_size=6), min_size=1, max_size=4)


@given(worlds, st.sampled_from([0.0, 0.5, 2.0]))
def test_ranks_are_those_of_sorting_each_query_by_hand(world, beta):
    some = pairs(*([(float(len(slow) - place), one) for place, one in enumerate(slow)] for slow in world))
    ranked = rank(some, fuse(some, beta))
    begin = 0
    for query, slow in enumerate(world):
        fast = [len(slow) - place for place in range(len(slow))]
        by_hand = sorted(
            range(len(slow)),
            key=lambda row: (
                slow[row] is None,
                -((slow[row] or 0) + beta * fast[row]) if slow[row] is not None else 0,
                row,
            ),
        )
        mine = slice(begin, begin + len(slow))
        assert (some.query[ranked.order[mine]] == query).all()
        assert (ranked.order[mine] - begin).tolist() == by_hand
        assert ranked.rank[mine].tolist() == list(range(1, len(slow) + 1))
        assert (np.diff(ranked.score[mine]) <= 0).all()
        begin += len(slow)


def test_equal_scores_keep_the_fast_order():
    some = pairs([(3, 1.0), (2, 2.0), (1, 2.0)])
    assert rank(some, fuse(some, 0.0)).order.tolist() == [1, 2, 0]


def test_beta_weighs_the_fast_side():
    some = pairs([(0.9, 1.0), (0.1, 1.5)])
    assert rank(some, fuse(some, 0.0)).order.tolist() == [1, 0]
    assert rank(some, fuse(some, 1.0)).order.tolist() == [0, 1]


def test_no_pairs_have_no_ranks():
    empty = pairs()
    assert rank(empty, fuse(empty, 1.0)).order.size == 0


def test_the_fit_takes_the_weight_that_ranks_best():
    # slow is right on two queries, and wrong on one where fast is sure; a little of fast mends it
    some = pairs([(0.2, 5.0), (0.1, 1.0)], [(0.2, 1.0), (0.1, 5.0)], [(0.9, 2.9), (0.0, 3.0)])
    relevant = np.array([True, False, False, True, True, False])
    unit = some.slow.std() / some.fast.std()
    found = fit_beta(some, relevant, 3)
    assert found == pytest.approx(min(w for w in GRID if w > 0) * unit, rel=1e-5)


def test_of_equal_weights_the_smallest_wins():
    some = pairs([(0.9, 9.0), (0.1, 1.0)])
    assert fit_beta(some, np.array([True, False]), 1) == 0.0


@given(st.integers(0, 10_000))
def test_no_weight_of_the_grid_is_better_than_the_one_chosen(seed):
    generator = np.random.default_rng(seed)
    fast = -np.sort(-generator.random((12, 5)), axis=1)
    slow = generator.normal(size=(12, 5)) * 10
    some = pairs(*(list(zip(f, s, strict=True)) for f, s in zip(fast, slow, strict=True)))
    relevant = generator.random(60) < 0.2
    found = fit_beta(some, relevant, 12)

    def quality(beta):
        first = []
        order = np.argsort(-(some.slow + np.float64(beta) * some.fast).reshape(12, 5), axis=1, kind="stable")
        for row in range(12):
            hits = np.flatnonzero(relevant.reshape(12, 5)[row][order[row]])
            first.append(1 / (hits[0] + 1) if hits.size else 0.0)
        return (np.array(first) == 1).mean(), round(float(np.mean(first)), 12)

    unit = some.slow.std(dtype=np.float64) / some.fast.std(dtype=np.float64)
    assert quality(found) == max(quality(weight * unit) for weight in GRID)


def test_nothing_judged_or_nothing_scored_fits_nothing():
    some = pairs([(0.9, 1.0)])
    assert fit_beta(some, np.array([False]), 0) is None
    assert fit_beta(pairs([(0.9, None)]), np.array([True]), 1) is None


def test_a_fast_side_that_says_nothing_gets_no_weight():
    assert fit_beta(pairs([(0.5, 1.0), (0.5, 2.0)]), np.array([True, False]), 1) == 0.0


def test_relevant_pairs_are_found_by_query_and_item():
    some = pairs([(2, 0.0), (1, 0.0)], [(2, 0.0), (1, 0.0)])._replace(item_id=np.array([5, 6, 6, 7]))
    rows = [{"query_id": "b", "item_id": 6, "key": "k", "modality": "image"}]
    rows.append({"query_id": "c", "item_id": 99, "key": "l", "modality": "image"})
    judged = pa.Table.from_pylist(rows, schema=JUDGEMENTS)
    relevant, known = relevant_pairs(some, judged, pa.array(["a", "b", "c"]))
    assert relevant.tolist() == [False, False, True, False]
    assert known.tolist() == [False, True, True]
    relevant, known = relevant_pairs(some, JUDGEMENTS.empty_table(), pa.array(["a", "b", "c"]))
    assert not relevant.any()
    assert not known.any()


@given(
    st.lists(st.tuples(st.sampled_from(["q1", "q2"]), st.text(st.characters(codec="utf-8"), max_size=5)), max_size=9)
)
def test_trec_text_is_that_of_the_plain_writer(monkeypatch_rows, rows):
    ranks = np.arange(1, len(rows) + 1, dtype=np.int32)
    ids, keys = pa.array([r[0] for r in rows], pa.string()), pa.array([r[1] for r in rows], pa.string())
    lines = b"".join(run_lines(ids, keys, ranks, depth=20, tag="t"))
    assert lines.decode() == trec_run(((q, k, n) for n, (q, k) in enumerate(rows, start=1)), depth=20, tag="t")
    assert b"".join(qrels_lines(ids, keys)).decode() == trec_qrels(rows)


@pytest.fixture(scope="module")
def monkeypatch_rows():
    """Pieces of four rows, so that small examples have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "TREC_ROWS", 4)
        yield
