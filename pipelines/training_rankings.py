"""What an earlier rerank says of the training captions: hard negatives to train with, and scores to learn from.

The rankings are those of a published generation whose shards hold the training pictures and whose query log holds their
captions: last night's rerank is tomorrow's distillation set.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.search import read_generation
from schemas.digests import digest_value
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.manifests import QueriesManifest, RankingsManifest
from schemas.parquet import read_table
from schemas.query_logs import normalise
from schemas.training import FromRankings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """Scored candidates of captions.

    Attributes:
      items: by picture and caption: int64 (K,), pictures that were candidates, the best first.
      scores: beside them: float32 (K,), of the slow side.
      digest: of the rankings.
    """

    items: Sequence[Sequence[np.ndarray]]
    scores: Sequence[Sequence[np.ndarray]]
    digest: str

    def hard(self, picture: int, caption: int, taken: set[int], rng: np.random.Generator) -> int | None:
        """A candidate of a caption that is not taken; None where there is none."""
        free = [int(item) for item in self.items[picture][caption] if int(item) not in taken]
        return free[int(rng.integers(len(free)))] if free else None

    def among(self, pictures: np.ndarray, captions: Sequence[int]) -> np.ndarray:
        """Scores of all pairs of a batch, float32 (B, B), captions by pictures; NaN where there is none.

        Args:
          pictures: int64 (B,), distinct.
          captions: of each picture, which of its captions is in the batch.
        """
        out = np.full((len(pictures), len(pictures)), np.nan, np.float32)
        order = np.argsort(pictures)
        ranked = pictures[order]
        for row, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            items = self.items[picture][caption]
            place = np.minimum(np.searchsorted(ranked, items), len(ranked) - 1)
            here = ranked[place] == items
            out[row, order[place[here]]] = self.scores[picture][caption][here]
        return out


def read_teacher(config: FromRankings, keys: Sequence[str], captions: Sequence[Sequence[str]]) -> Teacher:
    """The scored candidates of training captions, found by text; candidates that are no training picture are left out.

    Args:
      keys: of the training pictures.
      captions: of each.

    Raises:
      InputError: nothing is published there, it was not reranked, or it knows none of the captions.
    """
    layout = Layout(config.root, config.dataset)
    generation = read_generation(layout, config.generation)
    if generation.rankings is None:
        raise InputError(
            f"{layout.generation(generation.number)}: expected rankings; index {config.dataset} with a scorer"
        )
    ranked_url, queries_url = f"{layout.root}/{generation.rankings}", f"{layout.root}/{generation.queries}"
    rankings, queries = RankingsManifest.read(ranked_url), QueriesManifest.read(queries_url)
    texts = read_table(f"{queries_url.rpartition('/')[0]}/{queries.data.name}", ["query_id", "text"])
    pairs = read_table(
        f"{ranked_url.rpartition('/')[0]}/{rankings.data.name}", ["query_id", "key", "rank", "slow_score"]
    )
    place = {key: number for number, key in enumerate(keys)}
    picture = np.array([place.get(key, -1) for key in pairs["key"].to_pylist()], np.int64)
    score = pairs["slow_score"].to_numpy(zero_copy_only=False).astype(np.float32)
    number = {query: row for row, query in enumerate(texts["query_id"].to_pylist())}
    query = np.array([number[one] for one in pairs["query_id"].to_pylist()], np.int64)
    useful = (picture >= 0) & ~np.isnan(score)
    order = np.lexsort((pairs["rank"].to_numpy(), query))
    order = order[useful[order]]
    bounds = np.searchsorted(query[order], np.arange(len(number) + 1))
    by_text = {normalise(text): row for row, text in enumerate(texts["text"].to_pylist())}
    items: list[list[np.ndarray]] = []
    scores: list[list[np.ndarray]] = []
    known = 0
    for said in captions:
        rows = [by_text.get(normalise(text)) for text in said]
        known += sum(row is not None for row in rows)
        parts = [order[:0] if row is None else order[bounds[row] : bounds[row + 1]] for row in rows]
        items.append([picture[part] for part in parts])
        scores.append([score[part] for part in parts])
    total = sum(map(len, captions))
    if not known:
        raise InputError(f"rankings of {config.dataset}: none of {total:,} training captions is among its queries")
    logger.info("rankings of %s: candidates of %s of %s training captions", config.dataset, f"{known:,}", f"{total:,}")
    return Teacher(items, scores, digest_value([rankings.data.sha256, queries.data.sha256]))
