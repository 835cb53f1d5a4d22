"""The floor under every trained model: linear CCA of pooled features of pictures and TF-IDF vectors of captions.

Nothing is learnt by gradients. Letters: n pairs, N pictures, W words, d dimensions kept.
Sources: Hotelling, Relations Between Two Sets of Variates, Biometrika 28, 1936; the ridge on both covariances is that
of Hardoon, Szedmak and Shawe-Taylor, Neural Computation 16, 2004, section 2.5; dimensions weighted by a power of their
correlations and compared by cosine: Gong et al., IJCV 106, 2014, section 3.2.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

_WORD = re.compile(r"[a-z0-9]+")

LEAST_TEXTS = 3
"""Texts a word must be in."""
TOPICS = 400
"""Dimensions of TF-IDF that are kept."""
DIMENSIONS = 200
"""d."""
RIDGE = 0.5
"""Of the mean variance of a side; the best of 0.1 to 4 on dev."""
POWER = 1.0


@dataclass(frozen=True)
class Canonical:
    """What CCA found.

    Attributes:
      left_mean, right_mean: float64 (p,), (q,).
      left, right: float64 (p, d), (q, d): a centred row times one of them has d dimensions.
      correlations: float64 (d,), falling; with a ridge, smaller than the correlations of the sample.
    """

    left_mean: np.ndarray
    right_mean: np.ndarray
    left: np.ndarray
    right: np.ndarray
    correlations: np.ndarray


def cca(left: np.ndarray, right: np.ndarray, *, dimensions: int, ridge: float) -> Canonical:
    """Directions of both sides whose projections correlate most.

    Solved as the singular values of L_x^-1 C_xy L_y^-T, where C_xx + r_x I = L_x L_x^T, and r_x is `ridge` times the
    mean variance of the columns of that side.

    Args:
      left, right: (n, p) and (n, q), row i of both belongs together.
      dimensions: d, at most p and q.

    Raises:
      ValueError: the sides have different numbers of rows, or fewer columns than `dimensions`.
    """
    if len(left) != len(right):
        raise ValueError(f"expected as many rows on both sides, got {len(left)} and {len(right)}")
    if dimensions > min(left.shape[1], right.shape[1]):
        raise ValueError(f"expected {dimensions} columns or more a side, got {left.shape[1]} and {right.shape[1]}")
    means = left.mean(0, dtype=np.float64), right.mean(0, dtype=np.float64)
    x, y = left - means[0], right - means[1]
    roots = []
    for side in (x, y):
        covariance = side.T @ side / len(side)
        covariance[np.diag_indices_from(covariance)] += ridge * np.trace(covariance) / len(covariance)
        roots.append(np.linalg.cholesky(covariance))
    inner = scipy.linalg.solve_triangular(roots[0], x.T @ y / len(x), lower=True)
    inner = scipy.linalg.solve_triangular(roots[1], inner.T, lower=True).T
    u, correlations, vt = np.linalg.svd(inner, full_matrices=False)
    return Canonical(
        *means,
        scipy.linalg.solve_triangular(roots[0].T, u[:, :dimensions]),
        scipy.linalg.solve_triangular(roots[1].T, vt[:dimensions].T),
        correlations[:dimensions],
    )


@dataclass(frozen=True)
class Words:
    """Captions as TF-IDF over known words, then as their strongest directions.

    Attributes:
      place: of each word, 0..W-1.
      idf: float64 (W,).
      directions: float64 (W, t), right singular vectors of the TF-IDF of the texts it was fitted on.
    """

    place: dict[str, int]
    idf: np.ndarray
    directions: np.ndarray

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float64 (n, t); zeros for a text without a known word."""
        found: np.ndarray = self.tf_idf(texts) @ self.directions
        return found

    def tf_idf(self, texts: Sequence[str]) -> scipy.sparse.csr_matrix:
        """float64 (n, W), rows of norm 1: counts times log((1 + n) / (1 + texts with the word)) + 1."""
        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            for word, count in Counter(_words(text)).items():
                if word in self.place:
                    rows.append(row)
                    columns.append(self.place[word])
                    values.append(count * self.idf[self.place[word]])
        weights = scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), len(self.place)))
        norms = np.sqrt(np.asarray(weights.multiply(weights).sum(1)).ravel())
        return scipy.sparse.diags(1 / np.maximum(norms, 1e-12)) @ weights


def read_words(texts: Sequence[str], *, topics: int = TOPICS) -> Words:
    """Words of texts.

    Args:
      topics: t; less where there are fewer words or texts.

    Raises:
      ValueError: fewer than three words are met often enough.
    """
    met = Counter(word for text in texts for word in set(_words(text)))
    known = sorted(word for word, count in met.items() if count >= min(LEAST_TEXTS, len(texts)))
    if len(known) < 3:
        raise ValueError(f"expected 3 words or more in {LEAST_TEXTS} texts each, got {known}")
    idf = np.array([np.log((1 + len(texts)) / (1 + met[word])) + 1 for word in known])
    found = Words({word: place for place, word in enumerate(known)}, idf, np.eye(len(known)))
    count = min(topics, len(known) - 1, len(texts) - 1)
    begin = np.random.default_rng(0).standard_normal(min(len(texts), len(known)))
    _, strength, vt = scipy.sparse.linalg.svds(found.tf_idf(texts), k=count, v0=begin)
    return Words(found.place, found.idf, vt[np.argsort(-strength)].T)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Floor:
    """A fitted floor; scores are cosines of weighted projections."""

    words: Words
    found: Canonical

    def pictures(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors float64 (N, d) of features (N, p)."""
        return self._unit((features - self.found.left_mean) @ self.found.left)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Unit vectors float64 (Q, d)."""
        return self._unit((self.words.vectors(captions) - self.found.right_mean) @ self.found.right)

    def _unit(self, projected: np.ndarray) -> np.ndarray:
        weighted = projected * self.found.correlations**POWER
        out: np.ndarray = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12)
        return out


def fit_floor(features: np.ndarray, captions: Sequence[Sequence[str]]) -> Floor:
    """Every caption with its picture is a pair.

    Args:
      features: (N, p), of each picture.
      captions: of each picture, one or more.

    Raises:
      ValueError: too few words; see `read_words`.
    """
    texts = [text for some in captions for text in some]
    words = read_words(texts)
    rows = np.repeat(np.arange(len(captions)), [len(some) for some in captions])
    right = words.vectors(texts)
    dimensions = min(DIMENSIONS, features.shape[1], right.shape[1])
    return Floor(words, cca(features[rows].astype(np.float64), right, dimensions=dimensions, ridge=RIDGE))
