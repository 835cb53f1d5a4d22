"""The choice of queries: by hash, every kind, and the same every time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.samples import choose, verdicts


def test_what_reranking_did_is_told_from_the_first_relevant_ranks():
    fast, final = np.array([3, 1, 2, 0, 5]), np.array([1, 4, 2, 0, 0])
    assert verdicts(fast, final).tolist() == ["better", "worse", "unchanged", "unchanged", "worse"]


@given(st.lists(st.sampled_from(["better", "worse", "unchanged"]), max_size=40), st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_log(kinds, random):
    names = [f"q{number}" for number in range(len(kinds))]
    order = list(range(len(kinds)))
    random.shuffle(order)
    video = np.array([number % 3 == 0 for number in range(len(kinds))], bool)
    one = choose(names, np.array(kinds, "U9"), video=video)
    other = choose(
        [names[n] for n in order], np.array([kinds[n] for n in order], "U9"), video=video[np.array(order, int)]
    )
    assert [(names[row], kind) for row, kind in one] == [(names[order[row]], kind) for row, kind in other]
    assert all(kinds[row] == kind for row, kind in one)
    for kind in set(kinds):
        assert sum(found == kind for _, found in one) == min(3, kinds.count(kind))


def test_a_query_for_a_video_is_shown_where_there_is_one():
    names, verdict = [f"q{number}" for number in range(50)], np.array(["better"] * 50)
    without = {row for row, _ in choose(names, verdict, video=np.zeros(50, bool))}
    wanted = next(row for row in range(50) if row not in without)
    video = np.arange(50) == wanted
    assert wanted in {row for row, _ in choose(names, verdict, video=video)}
