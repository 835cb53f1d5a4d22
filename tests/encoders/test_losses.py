"""Each loss against a numpy oracle written from its formula."""

import numpy as np
import pytest
import torch

from encoders.losses import IGNORED, distillation, info_nce, masked_words, matching


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
