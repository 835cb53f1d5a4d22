"""Negatives are never positives, are drawn as promised, and need not exist; hidden words are what they should be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoders.losses import IGNORED
from encoders.negatives import mask_category, mask_words, positive_mask, sample_negatives


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    count=st.integers(1, 5),
    how=st.sampled_from(["sampled", "top", "random"]),
    seed=st.integers(0, 99),
)
def test_no_caption_of_the_same_picture_is_ever_a_negative_and_none_comes_twice(ids, count, how, seed):
    items = torch.tensor(ids)
    similarity = torch.randn(len(ids), len(ids), generator=generator(seed))
    positives = positive_mask(items, items)
    chosen, valid = sample_negatives(similarity, positives, count, temperature=0.1, how=how, generator=generator(seed))
    for row in range(len(ids)):
        taken = chosen[row][valid[row]].tolist()
        assert len(taken) == min(count, sum(other != ids[row] for other in ids))
        assert len(set(taken)) == len(taken)
        assert all(ids[column] != ids[row] for column in taken)


def test_top_takes_the_most_similar_of_the_others():
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.3, 0.9, 0.2], [0.0, 0.4, 0.9]])
    positives = torch.eye(3, dtype=torch.bool)
    chosen, _ = sample_negatives(similarity, positives, 1, temperature=1.0, how="top", generator=generator())
    assert chosen.flatten().tolist() == [2, 0, 1]


def test_sampling_follows_the_softmax():
    similarity = torch.tensor([[0.0, 0.0, 0.2, 0.4]]).expand(20_000, -1)
    positives = torch.zeros_like(similarity, dtype=torch.bool)
    positives[:, 0] = True
    chosen, _ = sample_negatives(similarity, positives, 1, temperature=0.2, how="sampled", generator=generator())
    weights = np.exp([0.0, 1.0, 2.0])
    shares = np.bincount(chosen.flatten().numpy(), minlength=4)[1:] / 20_000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)


def test_the_same_seed_draws_the_same():
    similarity, positives = torch.randn(8, 8), torch.eye(8, dtype=torch.bool)
    draws = [
        sample_negatives(similarity, positives, 3, temperature=0.1, how="sampled", generator=generator(s))[0]
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_all_words_of_exactly_one_category_are_hidden():
    category = torch.tensor([-1, -1, 0, 0, 1, 1])  # tokens 2, 3 of one kind, 4, 5 of another
    ids = torch.tensor([[0, 2, 4, 3, 5, 1], [0, 2, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]).repeat(40, 1)
    hidden, labels = mask_category(ids, category, mask_id=9, generator=generator())
    seen = set()
    for before, after, label in zip(ids.tolist(), hidden.tolist(), labels.tolist(), strict=True):
        places = tuple(i for i, token in enumerate(after) if token == 9)
        seen.add((tuple(before), places))
        assert [before[i] for i in places] == [label[i] for i in places]
        assert all(label[i] == IGNORED for i in range(6) if i not in places)
    assert seen == {
        ((0, 2, 4, 3, 5, 1), (1, 3)),
        ((0, 2, 4, 3, 5, 1), (2, 4)),
        ((0, 2, 1, 1, 1, 1), (1,)),
        ((0, 1, 1, 1, 1, 1), ()),
    }


def test_single_words_are_hidden_at_the_asked_share_and_special_tokens_never():
    ids = torch.full((200, 50), 7)
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0] = False
    hidden, labels = mask_words(ids, maskable, fraction=0.3, mask_id=9, generator=generator())
    assert (hidden[:, 0] == 7).all()
    assert float((hidden == 9).float().mean()) == pytest.approx(0.3 * 49 / 50, abs=0.02)
    assert torch.equal(labels != IGNORED, hidden == 9)
