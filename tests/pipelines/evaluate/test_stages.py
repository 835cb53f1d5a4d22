"""Loss by stage on hand-made orders."""

import numpy as np
import pytest

from pipelines.evaluate.metrics import Judged, Results
from pipelines.evaluate.stages import LOSSES, FirstRanks, Stage, loss_by_stage, losses, median_where_found, moved


def ranking(*items: list[int]) -> Results:
    rows = [(query, item, rank) for query, some in enumerate(items) for rank, item in enumerate(some, start=1)]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Results(columns[:, 0], columns[:, 1], columns[:, 2])


def test_each_stage_is_measured_and_compared_with_the_one_before():
    judged = Judged(np.array([0, 1]), np.array([1, 2]))
    stages = [
        Stage("exact", ranking([9, 1], [2, 9])),
        Stage("index", ranking([9, 8], [2, 9])),
        Stage("fused", ranking([8, 9], [9, 2])),
    ]
    found = loss_by_stage(stages, judged, np.array([0, 1]), exact_ranks=np.array([2, 1]))
    assert [row["R@1"]["value"] for row in found] == [0.5, 0.5, 0.0]
    assert [row["R@5"]["value"] for row in found] == [1.0, 0.5, 0.5]
    assert [row["median_rank"] for row in found] == [1.5, None, None]
    assert "change" not in found[0]
    assert found[1]["change"]["R@5"]["value"] == -0.5
    assert found[2]["change"]["R@1"]["value"] == -0.5
    assert found[2]["change"]["nDCG@10"]["value"] == pytest.approx((1 / np.log2(3) - 1) / 2)
    for row in found:
        assert row["R@1"]["low"] <= row["R@1"]["value"] <= row["R@1"]["high"]


def test_every_lost_query_is_lost_in_exactly_one_place():
    ranks = FirstRanks(
        exact=np.array([0, 3, 2, 1, 4, 1, 2]),
        fast=np.array([0, 0, 2, 1, 4, 1, 2]),
        scored=np.array([0, 0, 0, 2, 3, 1, 1]),
        final=np.array([0, 0, 5, 2, 3, 1, 1]),
    )
    found = losses(ranks, [f"q{number}" for number in range(7)])
    assert {row["where"]: row["examples"] for row in found} == {
        "fast": ["q0"],
        "index": ["q1"],
        "unscored": ["q2"],
        "rerank": ["q3"],
        "not lifted": ["q4"],
    }
    assert list(LOSSES) == [row["where"] for row in found]
    assert sum(row["queries"] for row in found) == 5
    assert found[0]["share"] == pytest.approx(1 / 7)


@pytest.mark.parametrize("seed", range(5))
def test_lost_queries_add_up_whatever_the_ranks(seed):
    generator = np.random.default_rng(seed)
    fast = generator.integers(0, 4, 200)
    final = np.where(fast > 0, generator.integers(1, 4, 200), 0)
    scored = np.where(generator.random(200) < 0.8, final, 0)
    exact = np.where(fast > 0, fast, generator.integers(0, 4, 200))
    found = losses(FirstRanks(exact, fast, scored, final), [str(number) for number in range(200)])
    assert sum(row["queries"] for row in found) == int((final != 1).sum())
    assert moved(fast, final)["won"] - moved(fast, final)["lost"] == (final == 1).sum() - (fast == 1).sum()


def test_a_median_among_the_missing_is_no_number():
    assert median_where_found(np.array([0, 0, 0])) is None
    assert median_where_found(np.array([5])) == 5.0
    assert median_where_found(np.empty(0, np.int64)) is None
