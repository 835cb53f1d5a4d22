"""Measures against hand-computed cases, and intervals against what is known of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate import metrics
from pipelines.evaluate.metrics import Judged, Results


def results(*rankings: list[int]) -> Results:
    """One ranking of item ids for each query 0, 1, ..."""
    rows = [(query, item, rank) for query, items in enumerate(rankings) for rank, item in enumerate(items, start=1)]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Results(columns[:, 0], columns[:, 1], columns[:, 2])


def judged(*pairs: tuple[int, int]) -> Judged:
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return Judged(columns[:, 0], columns[:, 1])


def test_each_measure_equals_the_hand_computed_value():
    found = metrics.per_query(results([9, 7, 8], [1, 2, 3, 4, 5, 6]), judged((0, 7), (1, 6), (1, 1)), np.array([0, 1]))
    assert found["R@1"].tolist() == [0.0, 1.0]
    assert found["R@5"].tolist() == [1.0, 1.0]
    assert found["RR"].tolist() == [0.5, 1.0]
    first = 1 / np.log2(3)
    second = (1 + 1 / np.log2(7)) / (1 + 1 / np.log2(3))
    assert found["nDCG@10"] == pytest.approx([first, second])


def test_a_hit_at_six_counts_at_ten_and_not_at_five():
    found = metrics.per_query(results([1, 2, 3, 4, 5, 6]), judged((0, 6)), np.array([0]))
    assert (found["R@5"][0], found["R@10"][0]) == (0.0, 1.0)


def test_a_judged_query_without_results_counts_as_zero():
    found = metrics.per_query(results([5]), judged((0, 5), (3, 5)), np.array([0, 3]))
    assert metrics.means(found)["R@1"] == 0.5
    assert metrics.means(metrics.per_query(results(), judged((0, 5)), np.array([0])))["R@10"] == 0.0


def test_queries_that_are_not_asked_about_do_not_count():
    found = metrics.per_query(results([5], [6]), judged((0, 5), (1, 5)), np.array([0]))
    assert found["R@1"].tolist() == [1.0]


@given(st.data())
def test_hit_rates_agree_with_the_first_relevant_rank(data):
    rankings = [data.draw(st.permutations(range(12))) for _ in range(4)]
    pairs = data.draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 15)), min_size=1))
    some, known = results(*(list(r) for r in rankings)), judged(*sorted(pairs))
    queries = np.unique(known.query)[::-1].copy()
    ranks = metrics.first_ranks(some, known, queries)
    oracle = [
        min((rankings[q].index(i) + 1 for p, i in pairs if p == q and i < 12), default=0) for q in queries.tolist()
    ]
    assert ranks.tolist() == oracle
    means = metrics.means(metrics.per_query(some, known, queries))
    assert {name: means[name] for name in ("R@1", "R@5", "R@10")} == pytest.approx(metrics.recalls(ranks))


def test_relevance_is_of_pairs_and_not_of_items():
    some = results([1, 2], [1, 2])
    assert metrics.is_relevant(some, judged((0, 1), (1, 2))).tolist() == [True, False, False, True]
    assert not metrics.is_relevant(some, judged()).any()


def test_two_equal_systems_are_not_found_different():
    values = np.random.default_rng(1).random(200)
    assert metrics.compare(values, values) == (0.0, 0.0, 0.0)


def test_a_clear_gain_is_found_and_the_interval_is_that_of_the_normal_approximation():
    generator = np.random.default_rng(2)
    theirs = (generator.random(2000) < 0.4).astype(float)
    ours = np.maximum(theirs, generator.random(2000) < 0.2)
    found = metrics.compare(ours, theirs)
    error = 1.96 * (ours - theirs).std() / np.sqrt(2000)
    assert found.low > 0
    assert found.value == pytest.approx((ours - theirs).mean())
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.1)


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(3)
    theirs = generator.random(500)
    ours = theirs + 0.01
    found = metrics.compare(ours, theirs)
    assert found.high - found.low < 1e-9  # unpaired it would be about 0.07


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(4).random(50)
    assert metrics.interval(values) == metrics.interval(values)


def test_no_queries_give_zeros_and_no_median():
    assert metrics.interval(np.empty(0)) == (0.0, 0.0, 0.0)
    assert metrics.median_rank(np.empty(0)) is None
    assert metrics.recalls([]) == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def test_rounding_reaches_every_level():
    assert metrics.rounded({"a": [1 / 3, {"b": 2 / 3}], "c": "x", "d": 1}) == {
        "a": [0.333333, {"b": 0.666667}],
        "c": "x",
        "d": 1,
    }
