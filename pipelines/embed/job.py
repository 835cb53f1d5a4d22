"""The embed stage: embeds the shards that are not there yet, then checks the whole.

Neither torch nor Beam is imported when nothing is to be done.
"""

import functools
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from encoders.precision import pinned
from pipelines import progress
from pipelines.embed.plan import EmbedPlan, plan
from schemas.commits import commit_json, exists
from schemas.embeddings import part_url
from schemas.errors import GateError, InputError, StaleError
from schemas.ids import refuse_collisions
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import Counts, EmbeddingManifest, embedding_set_digest
from schemas.parquet import read_table

logger = logging.getLogger(__name__)

TOP_REASONS = 5


def run(
    job: Job,
    shards: Sequence[str],
    earlier: Sequence[str] = (),
    *,
    replay: bool = False,
    lanes: int | None = None,
) -> EmbedPlan:
    """Embeds every shard of the dataset that has no manifest yet; run again, it goes on where it stopped.

    Args:
      shards: URLs, brace patterns or globs of the dataset's tars.
      earlier, replay: see `plan.plan`.
      lanes: threads a worker uses; None: one per core.

    Returns:
      The plan, every shard of which now has its manifest.

    Raises:
      InputError: no samples at all, a shard that cannot be opened, or an item that occurs twice.
      GateError: more samples were refused than `embed.max_reject_fraction` allows.
    """
    todo = plan(job, shards, earlier, replay=replay)
    tried: set[str] = set()
    if todo.pending:
        from encoders.registry import load_dual
        from pipelines.embed.transforms import embed_shards
        from pipelines.runners.following import following

        sizes = [shard.size_bytes for shard in todo.pending]
        units = {shard.paths.manifest: float(shard.size_bytes) for shard in todo.pending}
        logger.info(
            "embedding %d of %d shards of %s into %s", len(sizes), len(todo.shards), job.dataset.name, todo.folder
        )
        # the dtype is settled here, so that no worker chooses differently
        load = functools.partial(load_dual, pinned(job.encoder, job.layout), layout=job.layout)
        with (
            progress.watch(f"embed {job.dataset.name}", total=sum(sizes) if all(sizes) else None, unit="items"),
            following(units, job.runner, lambda url: EmbeddingManifest.read(url).counts.seen),
        ):
            counters = embed_shards(todo.pending, todo.recipe, load=load, runner=job.runner, lanes=lanes)
        logger.info("embedded: %s", ", ".join(f"{name} {number}" for name, number in sorted(counters.items())))
        tried = {shard.url for shard in todo.pending}
        todo = plan(job, shards)
        if todo.pending:
            raise StaleError(
                f"{todo.pending[0].url} has no manifest after the run; did the shards change meanwhile? Run again"
            )
    manifests = EmbeddingManifest.read_all(todo.manifests)
    _warn_of_broken(todo, manifests, tried)
    _check_ledger(todo, manifests, job.dataset.embed.max_reject_fraction)
    _check_unique(todo, manifests, job.layout)
    return todo


def total(manifests: Sequence[EmbeddingManifest]) -> Counts:
    """The ledger of all shards together."""
    return sum((manifest.counts for manifest in manifests), Counts.zero())


def _warn_of_broken(done: EmbedPlan, manifests: Sequence[EmbeddingManifest], tried: Collection[str]) -> None:
    """A shard that breaks off is one reject however much of it is lost, so no share of rejects shows it."""
    for shard, manifest in zip(done.shards, manifests, strict=True):
        if shard.url in tried and manifest.counts.rejected:
            table = read_table(manifest.rejects.url(shard.paths.manifest), ["position", "message"])
            for row in table.to_pylist():
                if row["position"] < 0:
                    logger.warning("%s; %d items of it are embedded", row["message"], manifest.counts.embedded)


def _check_ledger(done: EmbedPlan, manifests: Sequence[EmbeddingManifest], allowed: float) -> None:
    counts = total(manifests)
    if counts.seen == 0:
        raise InputError(f"no samples in {len(manifests)} shards, the first of them {done.shards[0].url}")
    for url, manifest in zip(done.manifests, manifests, strict=True):
        if manifest.data.rows != manifest.counts.embedded or manifest.rejects.rows != manifest.counts.rejected:
            raise InputError(f"{url}: rows and counts do not agree; remove it to have the shard embedded again")
    if counts.rejected <= allowed * counts.seen and counts.embedded:
        return
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for url, manifest in zip(done.manifests, manifests, strict=True):
        if manifest.counts.rejected:
            table = read_table(f"{url.rsplit('/', 1)[0]}/{manifest.rejects.name}", ["key", "stage", "error", "message"])
            for row in table.to_pylist():
                reason = f"{row['stage']}/{row['error']}"
                reasons[reason] += 1
                examples.setdefault(reason, f"{row['key']}: {row['message']}" if row["key"] else row["message"])
    worst = ", ".join(f"{n} {reason} ({examples[reason]})" for reason, n in reasons.most_common(TOP_REASONS))
    raise GateError(
        f"{counts.rejected} of {counts.seen} samples were refused ({counts.rejected / counts.seen:.1%}), expected at "
        f"most {allowed:.1%}: {worst}. Each is a row of *.rejects.parquet in {done.folder}. Repair the shards, or "
        "accept it with the setting embed.max_reject_fraction; nothing is embedded twice"
    )


def _check_unique(done: EmbedPlan, manifests: Sequence[EmbeddingManifest], layout: Layout) -> None:
    """Refuses an id that occurs twice: 8 bytes an item in memory, names are only read when something is wrong."""
    memo = layout.cache("unique-ids", embedding_set_digest(list(manifests)))
    if exists(memo):
        return
    tables = [part_url(url, manifest) for url, manifest in zip(done.manifests, manifests, strict=True)]
    ids = np.concatenate([read_table(url, ["item_id"]).column("item_id").to_numpy() for url in tables])
    found, times = np.unique(ids, return_counts=True)
    twice = found[times > 1]
    if twice.size:
        refuse_collisions(
            (row["item_id"], row["key"], manifest.shard)
            for url, manifest in zip(tables, manifests, strict=True)
            for row in _rows_with(url, twice)
        )
    commit_json(memo, {"items": int(ids.size)})


def _rows_with(url: str, ids: np.ndarray) -> list[dict[str, Any]]:
    table = read_table(url, ["item_id", "key"])
    rows: list[dict[str, Any]] = table.filter(np.isin(table.column("item_id").to_numpy(), ids)).to_pylist()
    return rows
