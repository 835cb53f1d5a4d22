"""Each loss against a numpy oracle written from its formula."""

import numpy as np
import pytest
import torch

from encoders.losses import (
    IGNORED,
    bag_of_words,
    caption_log_likelihood,
    distillation,
    entropy_temperature,
    info_nce,
    masked_words,
    matching,
    shifted_triplet,
    triplet,
)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_contrast_shares_the_target_among_all_captions_of_a_picture():
    similarity, ids, columns = rows(0, 4, 5), np.array([7, 7, 8, 9]), np.array([7, 7, 8, 9, 9])
    positives = ids[:, None] == columns[None]
    target = positives / positives.sum(1, keepdims=True)
    expected = -(target * np.log(softmax(similarity / 0.2))).sum(1).mean()
    got = info_nce(torch.tensor(similarity), torch.tensor(positives), torch.tensor(0.2))
    assert float(got) == pytest.approx(expected, abs=1e-6)


def test_contrast_among_some_columns_is_that_without_the_others():
    similarity, positives = rows(1, 3, 5), np.eye(3, 5, dtype=bool)
    among = positives | np.array([[0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    expected = [
        -np.log(softmax(row[kept] / 0.2))[own[kept]].item()
        for row, kept, own in zip(similarity, among, positives, strict=True)
    ]
    leaf = torch.tensor(similarity, requires_grad=True)
    got = info_nce(leaf, torch.tensor(positives), torch.tensor(0.2), torch.tensor(among))
    assert float(got.detach()) == pytest.approx(np.mean(expected), abs=1e-6)
    got.backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad[~torch.tensor(among)] == 0).all()


def test_matching_skips_pairs_that_do_not_exist():
    logits, labels = rows(1, 4, 2), np.array([1, 0, IGNORED, 0])
    p = softmax(logits)
    expected = -np.mean([np.log(p[0, 1]), np.log(p[1, 0]), np.log(p[3, 0])])
    assert float(matching(torch.tensor(logits), torch.tensor(labels))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl", "ce", "mse"])
def test_distillation_compares_distributions_over_the_candidates_there_are(kind):
    teacher, student = rows(2, 3, 4), rows(3, 3, 4)
    valid = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 1]], bool)
    expected = []
    for t, s, v in zip(teacher, student, valid, strict=True):
        p, q = softmax(t[v] / 2.0), softmax(s[v])
        value = {"kl": (p * np.log(p / q)).sum(), "ce": -(p * np.log(q)).sum(), "mse": ((p - q) ** 2).sum()}
        expected.append(value[kind])
    got = distillation(torch.tensor(teacher), torch.tensor(student), torch.tensor(valid), temperature=2.0, kind=kind)
    assert float(got) == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_the_teacher_is_pulled_only_where_the_gradient_is_not_stopped(stop_gradient):
    teacher = torch.tensor(rows(2, 3, 4), requires_grad=True)
    student = torch.tensor(rows(3, 3, 4), requires_grad=True)
    valid = torch.ones(3, 4, dtype=torch.bool)
    loss = distillation(teacher, student, valid, temperature=1.0, kind="kl", stop_gradient=stop_gradient)
    loss.backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert (teacher.grad is None) == stop_gradient


def test_masked_words_is_the_mean_over_hidden_words_and_zero_without_any():
    logits, labels = rows(4, 3, 6), np.array([0, 5, 2])
    expected = -np.log(softmax(logits)[np.arange(3), labels]).mean()
    assert float(masked_words(torch.tensor(logits), torch.tensor(labels))) == pytest.approx(expected, abs=1e-6)
    assert float(masked_words(torch.empty(0, 6), torch.empty(0, dtype=torch.int64))) == 0


def test_the_shifted_triplet_takes_the_row_before_as_the_negative_and_skips_rows_that_have_none():
    anchors, others, valid = rows(5, 4, 3), rows(6, 4, 3), np.array([1, 1, 0, 1], bool)
    near = np.sqrt(((anchors - others) ** 2).sum(1))
    far = np.sqrt(((anchors - others[[3, 0, 1, 2]]) ** 2).sum(1))
    expected = np.maximum(near - far + 0.7, 0)[valid].mean()
    got = shifted_triplet(torch.tensor(anchors), torch.tensor(others), torch.tensor(valid), margin=0.7)
    assert float(got) == pytest.approx(expected, abs=1e-4)
    none = shifted_triplet(torch.tensor(anchors), torch.tensor(others), torch.zeros(4, dtype=torch.bool), margin=0.7)
    assert float(none) == 0


def test_bag_of_words_is_the_mean_over_words_of_a_yes_or_no():
    logits, found = rows(7, 3, 5), rows(8, 3, 5) > 0
    p = 1 / (1 + np.exp(-logits))
    expected = -np.where(found, np.log(p), np.log(1 - p)).mean()
    assert float(bag_of_words(torch.tensor(logits), torch.tensor(found))) == pytest.approx(expected, abs=1e-6)


def test_the_likelihood_of_a_caption_is_a_sum_over_its_words_and_not_over_padding():
    logits, targets = rows(5, 2, 4, 6), np.array([[1, 3, 5, 0], [2, 2, IGNORED, IGNORED]])
    told = np.log(softmax(logits))
    expected = [told[0, np.arange(4), targets[0]].sum(), told[1, np.arange(2), [2, 2]].sum()]
    got = caption_log_likelihood(torch.tensor(logits[targets != IGNORED]), torch.tensor(targets))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.45, 0.9])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_the_teacher_is_made_as_undecided_as_asked(share, scale):
    scores = scale * rows(6, 5, 8)
    valid = np.random.default_rng(7).random((5, 8)) < 0.7
    valid[:, 0] = True
    found = float(entropy_temperature(torch.tensor(scores), torch.tensor(valid), share=share))
    entropy = [-(p * np.log(p)).sum() for p in (softmax(row[v] / found) for row, v in zip(scores, valid, strict=True))]
    assert np.mean(entropy) == pytest.approx(share * np.log(valid.sum(1)).mean(), abs=1e-4)


def test_likelihoods_taken_at_temperature_one_would_teach_no_more_than_labels():
    scores = torch.tensor([[-20.0, -45.0, -60.0, -38.0]])
    valid = torch.ones_like(scores, dtype=torch.bool)
    assert scores.softmax(1).max() > 1 - 1e-6
    assert (scores / entropy_temperature(scores, valid, share=0.45)).softmax(1).max() < 0.95


def test_a_teacher_without_choice_or_preference_has_a_finite_temperature():
    alone = torch.tensor([[True, False], [True, False]])
    for scores, valid in ((torch.randn(2, 2), alone), (torch.zeros(2, 2), torch.ones_like(alone))):
        assert torch.isfinite(entropy_temperature(scores, valid, share=0.5))


@pytest.mark.parametrize("hardest", [True, False])
def test_the_triplet_takes_the_hardest_negative_and_never_another_caption_of_the_picture(hardest):
    similarity, ids, columns = np.tanh(rows(5, 4, 6)), np.array([7, 7, 8, 9]), np.array([7, 7, 8, 9, 9, 5])
    positives = ids[:, None] == columns[None]
    own = similarity[np.arange(4), np.arange(4)]
    similarity[0, 1] = 2.0  # the other caption of picture 7 is nearer than anything else, and no negative
    distance, margin = 1 - similarity, 0.1
    expected = []
    for row in range(4):
        hinges = [max(0.0, (1 - own[row]) - d + margin) for d in distance[row][~positives[row]]]
        expected.append(max(hinges) if hardest else np.mean(hinges))
    got = triplet(*map(torch.tensor, (similarity, own, positives)), margin=margin, hardest=hardest)
    assert float(got) == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("hardest", [True, False])
def test_a_triplet_without_negatives_is_nought(hardest):
    positives = torch.ones(2, 2, dtype=torch.bool)
    assert float(triplet(torch.ones(2, 2), torch.zeros(2), positives, margin=0.1, hardest=hardest)) == 0
