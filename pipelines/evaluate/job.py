"""The evaluate stage: fast against reranked, both directions where captions allow, and what each stage loses.

Nothing heavy is imported when metrics.json is there. Its keys (all shares from 0 to 1):

  ground_truth      "captions", "clicked" or "none"; without judged queries only the counts follow
  queries           distinct queries of the log; `judged` of them have a relevant item
  measured          judged queries measured on; `measured_on`: "test", or "all" where nothing was fitted on any
  depth             candidates a query
  beta, beta_source, pair_evaluations, unscored_pairs, items_encoded    as in the rankings' manifest
  index             key, parameters, recall, recall_k, recall_target    as in the index's manifest
  text_to_image     fast, reranked (absent without a scorer): R@1, R@5, R@10, nDCG@10, RR, median_rank;
                    gain: reranked - fast of R@1, R@5, R@10, nDCG@10, RR as value, low, high (95 %, paired bootstrap)
  image_to_text     the fast side only: R@1, R@5, R@10, median_rank, items, gallery (texts); null without captions
  modalities        image, video: queries, fast, reranked, as in text_to_image, judged by items of that modality alone
  stages            see `stages.loss_by_stage`; over `stage_queries` of the measured queries
  upper_bound       share of the measured queries with a relevant item among the candidates: R@1 cannot exceed it
  losses            see `stages.losses`
  moved             see `stages.moved`
"""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import progress
from pipelines.embed.plan import EmbedPlan
from schemas.commits import commit_json, exists, read_json
from schemas.embeddings import VECTOR
from schemas.errors import StaleError
from schemas.jobs import Job
from schemas.manifests import IndexManifest, QueriesManifest, RankingsManifest
from schemas.parquet import read_table, vectors

if TYPE_CHECKING:
    from pipelines.evaluate.measure import Data

logger = logging.getLogger(__name__)


def run(
    job: Job, embed_plan: EmbedPlan, index_manifest_url: str, queries_manifest_url: str, rankings_manifest_url: str
) -> dict[str, Any]:
    """Measures the rankings of the test queries, unless that was done; writes metrics.json beside them.

    Args:
      embed_plan: what `pipelines.embed.job.run` returned.

    Returns:
      Plain values; keys as in this module's docstring.

    Raises:
      StaleError: index, queries and rankings do not belong together.
      InputError: a file is missing or damaged.
    """
    url = metrics_url(rankings_manifest_url)
    if not exists(url):
        rankings = RankingsManifest.read(rankings_manifest_url)
        queries = QueriesManifest.read(queries_manifest_url)
        index = IndexManifest.read(index_manifest_url)
        for name, made in (("index", index.encoder), ("rankings", rankings.encoder)):
            if made != queries.encoder:
                raise StaleError(f"{name} and queries were made by different encoders; run the job again")
        from pipelines.evaluate.measure import measure
        from pipelines.evaluate.metrics import rounded

        data = read_data(rankings_manifest_url, rankings, queries_manifest_url, queries)
        found = _facts(data, rankings, queries, index)
        if len(data.measured):
            with progress.watch(f"evaluate {job.dataset.name}", total=None, unit="queries"):
                found |= measure(data, embed_plan.manifests, captions=rankings.ground_truth == "captions")
                progress.advance(len(data.measured))
        else:
            logger.warning("no judged query to measure on (ground truth: %s)", rankings.ground_truth)
        commit_json(url, rounded(found))
    value: dict[str, Any] = read_json(url)
    return value


def metrics_url(rankings_manifest_url: str) -> str:
    """Where the metrics of rankings are: beside them."""
    return f"{rankings_manifest_url.rsplit('/', 1)[0]}/metrics.json"


def _facts(data: "Data", rankings: RankingsManifest, queries: QueriesManifest, index: IndexManifest) -> dict[str, Any]:
    """What is known before anything is measured."""
    return {
        "ground_truth": rankings.ground_truth,
        "queries": queries.distinct,
        "judged": len(np.unique(data.judged.query)),
        "measured": len(data.measured),
        "measured_on": "test" if rankings.beta_source == "fit" else "all",
        "depth": int(data.fast.rank.max(initial=0)),
        "beta": rankings.beta,
        "beta_source": rankings.beta_source,
        "pair_evaluations": rankings.pair_evaluations,
        "unscored_pairs": rankings.unscored_pairs,
        "items_encoded": rankings.items_encoded,
        "index": index.model_dump(include={"key", "parameters", "recall", "recall_k", "recall_target"}),
    }


def read_data(rankings_url: str, rankings: RankingsManifest, queries_url: str, queries: QueriesManifest) -> "Data":
    """Rankings and judgements with queries as numbers, and the queries' vectors; URLs are of the manifests."""
    from pipelines.evaluate.measure import Data
    from pipelines.evaluate.metrics import Judged, Results

    table = read_table(f"{queries_url.rsplit('/', 1)[0]}/{queries.data.name}", ["query_id", "split", VECTOR])
    ids = table.column("query_id").combine_chunks()
    known = read_table(rankings.judgements.url(rankings_url))
    judged = Judged(_numbers(known, ids), known.column("item_id").to_numpy())
    measured = np.unique(judged.query)
    if rankings.beta_source == "fit":  # what beta was fitted on is never measured on
        measured = measured[table.column("split").to_numpy()[measured] == "test"]
    ranked = read_table(rankings.data.url(rankings_url), ["query_id", "item_id", "rank", "fast_rank", "slow_score"])
    query, item = _numbers(ranked, ids), ranked.column("item_id").to_numpy()
    return Data(
        query_ids=ids,
        texts=vectors(table.column(VECTOR)),
        measured=measured,
        judged=judged,
        videos=known.column("modality").to_numpy() == "video",
        fast=Results(query, item, ranked.column("fast_rank").to_numpy()),
        final=Results(query, item, ranked.column("rank").to_numpy()) if rankings.scorer else None,
        slow=ranked.column("slow_score").to_numpy(zero_copy_only=False),
    )


def _numbers(table: pa.Table, ids: pa.Array) -> np.ndarray:
    """The row of each query in the query table, int64."""
    query = pc.index_in(table.column("query_id"), value_set=ids)
    if query.null_count:
        raise StaleError(f"{query.null_count} rows are of queries that are not in the query table; run the job again")
    return np.asarray(query.to_numpy(), np.int64)
