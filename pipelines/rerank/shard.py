"""One shard -> the scores of its pairs, its rejects and the manifest that commits both."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoders.base import PairScorer
from pipelines import progress
from pipelines.embed.lanes import Lanes
from pipelines.rerank.known import known_scores
from pipelines.rerank.pictures import Item, fetch
from pipelines.rerank.plan import ShardTask
from pipelines.rerank.scoring import GroupScorer, Scored, Wanted, compose
from schemas import rejects
from schemas.commits import exists, staging
from schemas.configs import Embed, Rerank
from schemas.errors import StaleError
from schemas.manifests import FileEntry, ScoresManifest
from schemas.parquet import TableWriter, read_table
from schemas.rankings import SCORES
from schemas.rejects import Reject


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides the pairs that decides a score.

    Attributes:
      scorer: fingerprint of the slow side.
      rerank: batch sizes.
      embed: limits, frames, JPEG scaling, as they were for the fast side.
    """

    scorer: str
    rerank: Rerank
    embed: Embed


def score_shard(task: ShardTask, scorer: PairScorer, recipe: Recipe, *, lanes: Lanes) -> ScoresManifest:
    """Scores the pairs of a shard and commits them, or returns the manifest that is already there.

    Scores are in the order of the pairs. A picture that is gone or cannot be decoded is a reject and its pairs have no
    row. Data and rejects are published first, then the manifest is created if absent: killed in between, the next run
    writes the same again.

    Args:
      scorer: the one `recipe.scorer` names.
      lanes: what the groups are worked on by; their number changes no byte.

    Raises:
      StaleError: the scorer is not the recipe's, or another worker committed other bytes at the same moment.
      OSError: the shard cannot be read now.
      ModelError: the scorer gave something that is not a number.
    """
    if exists(task.paths.manifest):
        return ScoresManifest.read(task.paths.manifest)
    if scorer.fingerprint != recipe.scorer:
        raise StaleError(
            f"{task.url}: planned for scorer {recipe.scorer}, got {scorer.fingerprint}; were the model's files "
            "changed during the run? Run again"
        )
    with staging() as folder:
        manifest = _write(task, scorer, recipe, lanes, folder)
        files = {folder / "data": task.paths.data, folder / "rejects": task.paths.rejects}
        return manifest.commit_unit(task.paths.manifest, files, subject=task.url)


def wanted_of(table: pa.Table) -> Wanted:
    """What to look at for some pairs of a shard.

    Args:
      table: of `plan.PAIRS`, rows by position.
    """
    position = table.column("position").to_numpy()
    first = np.flatnonzero(np.r_[True, position[1:] != position[:-1]]) if len(position) else np.empty(0, np.int64)
    names = ("item_id", "key", "position", "offset", "size", "content_sha256", "modality")
    items = [Item(**row) for row in table.select(names).take(first).to_pylist()]
    return Wanted(items, table.column("text").to_pylist(), np.r_[first, len(position)])


def _write(task: ShardTask, scorer: PairScorer, recipe: Recipe, lanes: Lanes, folder: Path) -> ScoresManifest:
    """Writes the two tables into `folder`; the manifest they will have."""
    pairs = read_table(task.paths.pairs)
    scores = known_scores(pairs, task)
    new = np.flatnonzero(np.isnan(scores))
    reused = scores.size - new.size
    progress.advance(reused)
    wanted = wanted_of(pairs.take(new))
    work = GroupScorer(scorer, wanted, rerank=recipe.rerank, embed=recipe.embed)
    refused: list[Reject] = []
    encoded = 0
    with closing(fetch(task.url, wanted.items, recipe.embed)) as fetched:
        groups = compose(fetched, wanted, rerank=recipe.rerank, frames=work.frames)
        with closing(lanes.map(work, groups, weigh=lambda group: group.size_bytes)) as results:
            for scored in results:
                scores[new[scored.pairs]] = scored.scores
                encoded += scored.encoded
                refused += _refused(task, wanted, scored)
                progress.advance(_pairs(wanted, scored))
    refused.sort(key=lambda reject: reject.position)
    done = np.flatnonzero(~np.isnan(scores))
    data = TableWriter(folder / "data", SCORES)
    with closing(data):
        names = {name: pairs.column(name).combine_chunks().take(done) for name in ("query_id", "item_id")}
        data.write({**names, "slow_score": scores[done]})
    bad = TableWriter(folder / "rejects", rejects.SCHEMA)
    with closing(bad):
        table = rejects.to_table(refused)
        bad.write({name: table.column(name).combine_chunks() for name in table.column_names})
    return ScoresManifest(
        dataset=task.dataset,
        shard=task.url,
        candidates=task.candidates,
        scorer=scorer.fingerprint,
        pairs=done.size,
        items=encoded,
        unscored=scores.size - done.size,
        settings=task.settings,
        reused=reused,
        data=FileEntry.of(folder / "data", task.paths.data, data.rows),
        rejects=FileEntry.of(folder / "rejects", task.paths.rejects, bad.rows),
    )


def _refused(task: ShardTask, wanted: Wanted, scored: Scored) -> Iterable[Reject]:
    for row, error in scored.failed.items():
        item = wanted.items[row]
        yield Reject(
            key=item.key,
            shard=task.url.rsplit("/", 1)[-1],
            position=item.position,
            offset=item.offset,
            size=item.size,
            stage="rerank",
            error=type(error).__name__,
            message=str(error),
        )


def _pairs(wanted: Wanted, scored: Scored) -> int:
    """Pairs that are settled, with a score or without."""
    return len(scored.pairs) + sum(int(wanted.starts[row + 1] - wanted.starts[row]) for row in scored.failed)
