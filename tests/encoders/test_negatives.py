"""Negatives are never positives, are drawn as promised, and need not exist; hidden words are what they should be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoders.losses import IGNORED
from encoders.negatives import (
    bags,
    hide_words,
    mask_category,
    mask_words,
    mined_pairs,
    nearest,
    one_side_negatives,
    positive_mask,
    replace_one_side,
    sample_negatives,
    word_overlap,
)


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


def test_bags_count_words_and_leave_special_tokens_out():
    ids = torch.tensor([[2, 5, 4, 5, 3], [2, 4, 3, 0, 0]])
    found = bags(ids, ids > 3, 6)
    assert found.tolist() == [[0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 0]]


def test_overlap_is_the_cosine_of_bags_whatever_the_order_of_words():
    ids = torch.tensor([[2, 7, 8, 9, 9, 3], [2, 9, 7, 9, 8, 3], [2, 7, 40, 3, 0, 0], [2, 3, 0, 0, 0, 0]])
    counts = np.array([[1, 1, 2, 0], [1, 1, 2, 0], [1, 0, 0, 1], [0, 0, 0, 0]], float)
    lengths = np.linalg.norm(counts, axis=1)
    expected = counts @ counts.T / np.maximum(np.outer(lengths, lengths), 1e-9)
    np.testing.assert_allclose(word_overlap(ids, ids > 3).numpy(), expected, atol=1e-6)


def test_a_mismatched_pair_keeps_one_side_and_takes_the_other_from_the_chosen_item():
    chosen = torch.tensor([[1, 2], [2, 0], [0, 1]]).repeat(1, 500)
    texts, pictures = replace_one_side(chosen, generator=generator())
    own = torch.arange(3)[:, None].expand_as(chosen)
    kept_text, kept_picture = (texts == own) & (pictures == chosen), (texts == chosen) & (pictures == own)
    assert (kept_text ^ kept_picture).all()
    assert float(kept_text.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_mined_pairs_are_own_pairs_then_hard_pictures_then_hard_texts():
    similarity = torch.tensor([[0.0, 0.9, 0.1], [0.2, 0.0, 0.8], [0.3, 0.4, 0.0]])
    pairs = mined_pairs(similarity, torch.eye(3).bool(), 1, temperature=0.1, how="top", generator=generator())
    assert list(zip(pairs.texts.tolist(), pairs.pictures.tolist(), pairs.labels.tolist(), strict=True)) == [
        *[(0, 0, 1), (1, 1, 1), (2, 2, 1)],
        *[(0, 1, 0), (1, 2, 0), (2, 1, 0)],  # the most similar picture of each text
        *[(2, 0, 0), (0, 1, 0), (1, 2, 0)],  # the most similar text of each picture
    ]
    assert pairs.hard_pictures.tolist() == [[1], [2], [1]]
    assert pairs.hard_texts.tolist() == [[2], [0], [1]]


def test_mining_for_some_rows_takes_negatives_from_the_whole_batch():
    generated = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    similarity = torch.from_numpy(generated)
    whole = mined_pairs(similarity, torch.eye(8).bool(), 2, temperature=0.1, how="top", generator=generator())
    some = mined_pairs(similarity, torch.eye(8).bool(), 2, temperature=0.1, how="top", generator=generator(), rows=3)
    rows = some.rows.tolist()
    assert len(set(rows)) == 3
    assert some.texts.tolist()[:3] == some.pictures.tolist()[:3] == rows
    assert len(some.texts) == len(some.labels) == 3 * (1 + 2 * 2)
    assert some.hard_pictures.tolist() == whole.hard_pictures[some.rows].tolist()
    assert some.hard_texts.tolist() == whole.hard_texts[some.rows].tolist()
    assert whole.rows.tolist() == list(range(8))


def test_a_mined_pair_that_does_not_exist_is_ignored():
    positives = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    pairs = mined_pairs(torch.rand(3, 3), positives, 2, temperature=0.1, how="sampled", generator=generator())
    assert pairs.labels.tolist() == [1] * 3 + [0, IGNORED, 0, IGNORED, 0, 0] * 2


@given(count=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_nearest_are_the_first_of_a_whole_sort_and_the_positives(count, seed):
    similarity = np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float32)
    positives = np.zeros((4, 6), bool)
    positives[np.arange(4), np.random.default_rng(seed).integers(0, 6, 4)] = True
    expected = positives.copy()
    for row, order in enumerate(np.argsort(-similarity, axis=1)):
        expected[row, order[:count]] = True
    assert np.array_equal(nearest(torch.tensor(similarity), torch.tensor(positives), count).numpy(), expected)


def test_words_are_hidden_by_category_where_there_are_any():
    ids, maskable, category = torch.tensor([[1, 2, 3]]), torch.ones(1, 3).bool(), torch.tensor([-1, 0, -1, -1])
    options = {"fraction": 1.0, "mask_id": 9}
    by_category = hide_words(ids, maskable, category, **options, generator=generator())
    single = hide_words(ids, maskable, None, **options, generator=generator())
    assert by_category[0].tolist() == [[9, 2, 3]]
    assert single[0].tolist() == [[9, 9, 9]]


def test_one_side_of_a_pair_is_replaced_by_the_toss_of_a_coin():
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.3, 0.9, 0.2], [0.7, 0.6, 0.9]])
    positives = torch.eye(3, dtype=torch.bool)
    sides = []
    for seed in range(40):
        texts, pictures, valid = one_side_negatives(
            similarity, positives, 1, temperature=1.0, how="top", generator=generator(seed)
        )
        assert valid.all()
        for own in range(3):
            text, picture = texts[own].item(), pictures[own].item()
            assert (text, picture) in {(own, [2, 0, 0][own]), ([2, 2, 0][own], own)}
            sides.append(picture != own)
    assert 0.35 < np.mean(sides) < 0.65


@pytest.mark.parametrize("how", ["random", "sampled", "top"])
def test_a_replaced_side_is_never_of_the_same_picture(how):
    items = torch.tensor([1, 1, 1, 2])
    texts, pictures, valid = one_side_negatives(
        torch.zeros(4, 4), positive_mask(items, items), 2, temperature=1.0, how=how, generator=generator()
    )
    assert texts.shape == pictures.shape == valid.shape == (4, 2)
    assert (items[texts] != items[pictures])[valid].all()
    assert valid.sum(1).tolist() == [1, 1, 1, 2]
