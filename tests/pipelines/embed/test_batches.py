"""Batches are a function of the order and size of samples, lose nothing, and everything gets back into order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipelines.embed import batches as module
from pipelines.embed.batches import MAX_LAG, compose, in_order
from schemas.rejects import Reject
from schemas.samples import Sample


def sample(number: int, suffix: str = "jpg", size: int = 10) -> Sample:
    return Sample(f"k{number}", "s.tar", number, suffix, bytes(size), 0, size)


def reject(number: int) -> Reject:
    return Reject(f"k{number}", "s.tar", number, 0, 0, "read", "NoVisualMember", "nothing")


kinds = st.lists(st.sampled_from(["jpg", "mp4", "gif", "reject"]), max_size=200)


@given(kinds=kinds, batch_size=st.integers(1, 9), frames=st.integers(1, 12))
def test_every_item_is_in_one_batch_of_its_kind_and_none_is_too_large(kinds, batch_size, frames):
    stream = [reject(n) if kind == "reject" else sample(n, kind) for n, kind in enumerate(kinds)]
    batches = list(compose(stream, batch_size=batch_size, frames=frames))
    assert sorted(number for batch in batches for number, _ in batch.items) == list(range(len(kinds)))
    for batch in batches:
        moving = {isinstance(item, Sample) and item.suffix != "jpg" for _, item in batch.items}
        assert len(moving) == 1
        assert 1 <= len(batch.items) <= (max(1, batch_size // frames) if moving == {True} else batch_size)
        assert all(item is stream[number] for number, item in batch.items)
        assert batch.size_bytes == sum(len(i.data) for _, i in batch.items if isinstance(i, Sample))


def test_full_batches_follow_each_other_and_the_last_two_are_cut_in_four():
    sizes = [len(batch.items) for batch in compose(map(sample, range(100)), batch_size=32, frames=4)]
    assert sizes == [32, 32, 8, 8, 8, 8, 1, 1, 1, 1]


def test_a_batch_is_closed_before_it_grows_too_heavy(monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    stream = [sample(n, size=40) for n in range(6)] + [sample(6, size=500)] + [sample(n) for n in range(7, 20)]
    batches = [[n for n, _ in batch.items] for batch in module._compose(stream, {False: 32, True: 8})]
    assert batches == [[0, 1], [2, 3], [4, 5], [6], list(range(7, 17)), [17, 18, 19]]


def test_a_lonely_video_does_not_hold_back_the_rows_of_a_long_shard():
    stream = [sample(0, "mp4")] + [sample(n) for n in range(1, 5 * MAX_LAG)]
    order = [batch.items[0][0] for batch in compose(stream, batch_size=32, frames=4)]
    assert order.index(0) <= MAX_LAG // 32 + 1


def test_a_stream_is_read_only_as_far_as_needed():
    drawn: list[int] = []

    def stream():
        for number in range(10_000):
            drawn.append(number)
            yield sample(number)

    next(compose(stream(), batch_size=32, frames=4))
    assert len(drawn) <= 4 * 32


@given(sizes=st.lists(st.integers(1, 5), max_size=20), seed=st.integers(0, 1000))
def test_items_leave_in_order_whatever_the_batches(sizes, seed):
    numbers = list(range(sum(sizes)))
    random.Random(seed).shuffle(numbers)
    results, start = [], 0
    for size in sizes:
        results.append([(number, f"item {number}") for number in numbers[start : start + size]])
        start += size
    assert list(in_order(results)) == [f"item {number}" for number in range(len(numbers))]
