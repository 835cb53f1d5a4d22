"""The rerank stage: every candidate pair scored by the slow side, fused with the fast score, ranked and written.

Neither torch nor Beam is imported when nothing is to be scored.
"""

import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import progress
from pipelines.embed.plan import EmbedPlan
from pipelines.rerank.fusion import Pairs, Ranked, fit_beta, fuse, qrels_lines, rank, relevant_pairs, run_lines
from pipelines.rerank.ground_truth import judge
from pipelines.rerank.plan import (
    Places,
    ShardTask,
    fill_scores,
    locate,
    plan_shards,
    rankings_digest,
    read_candidates,
    read_queries,
    scores_digest,
    settings_digest,
    to_score,
)
from schemas.commits import exists, publish_file, read_json, staging
from schemas.errors import ConfigError, GateError, StaleError
from schemas.jobs import Job
from schemas.manifests import CandidatesManifest, QueriesManifest, RankingsManifest, ScoresManifest
from schemas.parquet import entry, write_table
from schemas.rankings import JUDGEMENTS, RANKINGS

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1 << 20
"""Rows of one row group of the rankings, 64 MB or so, and of what is named at once: never all pairs."""


class Beta(NamedTuple):
    """The weight of the fast side and where it comes from: "config", "checkpoint", "fit" or "none"."""

    value: float
    source: str


def run(
    job: Job,
    embed_plan: EmbedPlan,
    candidates_manifest_url: str,
    queries_manifest_url: str,
    earlier: str | None = None,
    *,
    lanes: int | None = None,
) -> str:
    """Ranks the candidates of every query, unless that was done; run again, it goes on where it stopped.

    Without a scorer the rankings are the candidates in the order of the fast side. A candidate whose picture is gone
    or cannot be decoded is a reject beside the scores; it keeps a place behind the scored ones of its query.

    Args:
      embed_plan: what `pipelines.embed.job.run` returned.
      earlier: manifest of the rankings being served; pairs that were scored for them are not scored again.
      lanes: threads a worker uses; None: one per core.

    Returns:
      URL of the `RankingsManifest`; beside it rankings.parquet (`rankings.RANKINGS`), judgements.parquet
      (`rankings.JUDGEMENTS`), run.trec and qrels.trec.

    Raises:
      StaleError: candidates, queries and embeddings do not belong together.
      GateError: more of the candidates' pictures could not be read than `embed.max_reject_fraction` allows.
      ConfigError: beta is to come from a checkpoint that has none.
      OSError: a shard cannot be read now.
    """
    target = _plan(job, candidates_manifest_url, queries_manifest_url)
    candidates, queries_manifest, names, scorer, scores, beta, folder = target
    manifest_url = target.manifest_url
    if exists(manifest_url):
        return manifest_url

    _, queries = read_queries(queries_manifest_url)
    query_ids = queries.column("query_id").combine_chunks()
    pairs = read_candidates(candidates_manifest_url, candidates, query_ids)
    shards = [(shard.url, shard.paths.manifest) for shard in embed_plan.shards]
    places = locate(shards, np.unique(pairs.item_id))
    done: list[ScoresManifest] = []
    if scores and scorer:
        wanted = to_score(pairs, job.dataset.rerank.depth)
        tasks = plan_shards(
            job,
            scores,
            names[0],
            shards,
            places=places,
            pairs=wanted,
            queries=queries,
            settings=settings_digest(job, scorer),
            earlier=_scores_of(earlier),
        )
        done = _score(job, tasks, scorer, lanes)
        _refuse_too_many_gone(job, done, job.layout.scores(scores))
        pairs = fill_scores(pairs, [task.paths.data for task in tasks], query_ids)
    judgements = judge(job.dataset.queries.ground_truth, queries, embed_plan.manifests)
    beta = beta or _fit(pairs, judgements, queries)
    logger.info("ranking by slow + %.6g * fast (%s)", beta.value, beta.source)
    ranked = rank(pairs, fuse(pairs, beta.value))
    _write_rankings(f"{folder}/rankings.parquet", pairs, ranked, places, query_ids)
    with write_table(f"{folder}/judgements.parquet", JUDGEMENTS) as table:
        for some in _pieces(judgements):
            table.write(some)
    _publish(f"{folder}/run.trec", _run(pairs, ranked, places, query_ids, depth=candidates.depth))
    relevant = (qrels_lines(some["query_id"], some["key"]) for some in _pieces(judgements))
    _publish(f"{folder}/qrels.trec", itertools.chain.from_iterable(relevant))
    RankingsManifest(
        dataset=job.dataset.name,
        candidates=names[0],
        encoder=queries_manifest.encoder,
        scorer=scorer,
        beta=beta.value,
        beta_source=beta.source,
        queries=len(query_ids),
        pair_evaluations=sum(manifest.pairs for manifest in done),
        reused_pairs=sum(manifest.reused for manifest in done),
        scores=scores,
        unscored_pairs=sum(manifest.unscored for manifest in done),
        items_encoded=sum(manifest.items for manifest in done),
        ground_truth=job.dataset.queries.ground_truth,
        data=entry(f"{folder}/rankings.parquet"),
        judgements=entry(f"{folder}/judgements.parquet"),
    ).commit(manifest_url)
    return manifest_url


class Target(NamedTuple):
    """What rankings would be made and where.

    Attributes:
      names: digests of the two manifests before.
      scorer: fingerprint, None without a slow side.
      scores: digest of the pair scores, None without a slow side.
      beta: None when it is to be fitted.
    """

    candidates: CandidatesManifest
    queries: QueriesManifest
    names: tuple[str, str]
    scorer: str | None
    scores: str | None
    beta: Beta | None
    folder: str

    @property
    def manifest_url(self) -> str:
        """Exists when the rankings are finished."""
        return f"{self.folder}/manifest.json"


def pending(job: Job, candidates_manifest_url: str, queries_manifest_url: str) -> bool:
    """Whether `run` would rank anything; reads manifests alone."""
    return not exists(_plan(job, candidates_manifest_url, queries_manifest_url).manifest_url)


def _plan(job: Job, candidates_manifest_url: str, queries_manifest_url: str) -> Target:
    candidates = CandidatesManifest.read(candidates_manifest_url)
    queries = QueriesManifest.read(queries_manifest_url)
    if candidates.queries != queries.data.sha256:
        raise StaleError(
            f"{candidates_manifest_url}: found for other queries than {queries_manifest_url}; search again"
        )
    names = candidates.digest, queries.digest
    scorer = _fingerprint(job)
    scores = scores_digest(job, *names, scorer) if scorer else None
    beta = _configured_beta(job)
    digest = rankings_digest(job, *names, scores=scores, beta=beta.value if beta else "fit")
    return Target(candidates, queries, names, scorer, scores, beta, job.layout.rankings(digest))


def _scores_of(rankings_manifest_url: str | None) -> str | None:
    """Names the pair scores that rankings were made of; None where there are none, or no such rankings any more."""
    if rankings_manifest_url is None or not exists(rankings_manifest_url):
        return None
    return RankingsManifest.read(rankings_manifest_url).scores


def _fingerprint(job: Job) -> str | None:
    if job.scorer is None:
        return None
    from encoders.precision import fingerprint_of

    return fingerprint_of(job.scorer, job.layout)


def _configured_beta(job: Job) -> Beta | None:
    """Beta as far as it is known before anything is scored; None when it is to be fitted.

    Raises:
      ConfigError: it is to come from a checkpoint that has none.
    """
    wanted = job.dataset.rerank.beta
    if job.scorer is None:
        return Beta(0.0, "none")
    if wanted == "fit":
        return None
    if wanted != "checkpoint":
        return Beta(float(wanted), "config")
    from encoders.sources import resolve

    folder = resolve(job.scorer)
    for name in ("training.json", "config.json"):
        if (folder / name).is_file():
            found = read_json(str(folder / name)).get("fusion_beta")
            if isinstance(found, int | float) and not isinstance(found, bool):
                return Beta(float(found), "checkpoint")
    raise ConfigError(
        f"rerank.beta: checkpoint: expected a number fusion_beta in training.json or config.json of {job.scorer.path}, "
        "found none; set rerank.beta to a number or to fit"
    )


def _score(job: Job, tasks: Sequence[ShardTask], scorer: str, lanes: int | None) -> list[ScoresManifest]:
    """Scores what is not scored yet; the manifests of all tasks."""
    pending = [task for task in tasks if not exists(task.paths.manifest)]
    if pending and job.scorer is not None:
        from encoders.precision import pinned
        from encoders.registry import load_scorer
        from pipelines.rerank.shard import Recipe
        from pipelines.rerank.transforms import score_shards
        from pipelines.runners.following import following

        recipe = Recipe(scorer, job.dataset.rerank, job.dataset.embed)
        # the dtype is settled here, so that no worker chooses differently
        load = functools.partial(load_scorer, pinned(job.scorer, job.layout), layout=job.layout)
        total = sum(task.pairs for task in pending)
        logger.info("scoring %d pairs of %d of %d shards", total, len(pending), len(tasks))
        units = {task.paths.manifest: float(task.pairs) for task in pending}
        with (
            progress.watch(f"rerank {job.dataset.name}", total=total, unit="pairs"),
            following(units, job.runner, lambda url: ScoresManifest.read(url).pairs),
        ):
            counters = score_shards(pending, recipe, load=load, runner=job.runner, lanes=lanes)
        logger.info("scored: %s", ", ".join(f"{name} {number}" for name, number in sorted(counters.items())))
    return ScoresManifest.read_all(task.paths.manifest for task in tasks)


def _refuse_too_many_gone(job: Job, done: Sequence[ScoresManifest], folder: str) -> None:
    """A few lost pictures are a fact of life; many are a fault of the machine, and not to be made permanent."""
    gone, items = sum(m.rejects.rows for m in done), sum(m.items + m.rejects.rows for m in done)
    allowed = job.dataset.embed.max_reject_fraction
    if gone > allowed * items:
        raise GateError(
            f"{gone} of {items} candidates could not be read any more ({gone / items:.1%}), expected at most "
            f"{allowed:.1%}; each is a row of *.rejects.parquet in {folder}. When the shards are back, remove that "
            "folder and run again; or accept it with the setting embed.max_reject_fraction"
        )


def _fit(pairs: Pairs, judgements: pa.Table, queries: pa.Table) -> Beta:
    """Beta from the judged queries of the fit split; never from a test query."""
    fit = queries.column("split").to_numpy() == "fit"
    relevant, judged = relevant_pairs(pairs, judgements, queries.column("query_id").combine_chunks())
    mine = fit[pairs.query]
    some = Pairs(*(column[mine] for column in pairs))
    found = fit_beta(some, relevant[mine], int((fit & judged).sum()))
    if found is None:
        logger.warning("no judged query in the fit split: ranking by the slow score alone (beta 0)")
        return Beta(0.0, "none")
    return Beta(found, "fit")


class Named(NamedTuple):
    """Some of the ranked pairs, with their names.

    Attributes:
      rows: of the pairs, int64 (rows,).
      rank: int32 (rows,).
      score: float32 (rows,).
      query_id, key: strings.
    """

    rows: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    query_id: pa.Array
    key: pa.Array


def _named(pairs: Pairs, ranked: Ranked, places: Places, query_ids: pa.Array) -> Iterator[Named]:
    """The ranked pairs in order, `ROWS_AT_ONCE` at a time: the names of all may be more than one array can hold."""
    # Arrow's take from strings of 32-bit offsets does not refuse more than 2 GiB, it returns a damaged array; from
    # large ones it is right, and the cast of a piece refuses.
    ids, keys = query_ids.cast(pa.large_string()), places.table.column("key")
    for begin in range(0, len(ranked.order), ROWS_AT_ONCE):
        piece = slice(begin, begin + ROWS_AT_ONCE)
        rows = ranked.order[piece]
        items = np.searchsorted(places.item_id, pairs.item_id[rows])
        yield Named(
            rows,
            ranked.rank[piece],
            ranked.score[piece],
            ids.take(pa.array(pairs.query[rows])).cast(pa.string()),
            keys.take(pa.array(items)).cast(pa.string()).combine_chunks(),
        )


def _pieces(judgements: pa.Table) -> Iterator[dict[str, pa.Array]]:
    """The columns, `ROWS_AT_ONCE` rows at a time; once without rows where there are none."""
    for begin in range(0, max(1, judgements.num_rows), ROWS_AT_ONCE):
        some = judgements.slice(begin, ROWS_AT_ONCE)
        yield {name: some.column(name).combine_chunks() for name in JUDGEMENTS.names}


def _run(pairs: Pairs, ranked: Ranked, places: Places, query_ids: pa.Array, *, depth: int) -> Iterator[bytes]:
    for some in _named(pairs, ranked, places, query_ids):
        yield from run_lines(some.query_id, some.key, some.rank, depth=depth, tag="fastslow")


def _write_rankings(url: str, pairs: Pairs, ranked: Ranked, places: Places, query_ids: pa.Array) -> None:
    with write_table(url, RANKINGS) as writer:
        for some in _named(pairs, ranked, places, query_ids):
            writer.write(
                {
                    "query_id": some.query_id,
                    "item_id": pairs.item_id[some.rows],
                    "key": some.key,
                    "rank": some.rank,
                    "fast_rank": pairs.fast_rank[some.rows],
                    "fast_score": pairs.fast[some.rows],
                    "slow_score": pa.array(pairs.slow[some.rows], from_pandas=True),  # NaN: not scored
                    "score": some.score,
                }
            )


def _publish(url: str, lines: Iterable[bytes]) -> None:
    with staging() as folder:
        local = folder / "data"
        with local.open("wb") as stream:
            stream.writelines(lines)
        publish_file(local, url)
