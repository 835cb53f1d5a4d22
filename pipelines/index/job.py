"""The index stage: plan, refuse, propose, build, reopen, tune, publish; a finished index is skipped at once."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.index.plan import IndexPlan, pending, plan_index, promise
from schemas.commits import encode_json, exists, publish_bytes, publish_file, staging
from schemas.digests import digest_file, digest_value
from schemas.errors import LedgerError
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest, FileEntry, IndexManifest, LevelsEntry

if TYPE_CHECKING:
    from pipelines.index.partial import PlannedPartial
    from pipelines.index.proposal import Proposal

log = logging.getLogger(__name__)

FILE = "index.faiss"


def run(job: Job, embedding_manifest_urls: Sequence[str], queries_manifest_url: str) -> str:
    """Builds and tunes the index of a set of embedding parts, unless it is there.

    Returns:
      URL of the index manifest. Beside it: `index.faiss`, `tuning.json` (see `tune.Tuning`) and
      `timings.json` (milliseconds per query as measured on this machine, the only file that differs between runs);
      for coarse to fine also the vectors of the levels above the index (see `levels`).

    Raises:
      InputError, StaleError: the parts cannot be indexed together (see `plan_index` and `parts.check`).
      ConfigError: `index.key`, a size or the levels in the config make no sense.
      IndexBuildError: nothing fits into the memory allowed, or the recall target is out of reach.
    """
    plan = plan_index(job, embedding_manifest_urls, queries_manifest_url)
    if not pending(plan):
        log.debug("index %s is there", plan.manifest_url)
        return plan.manifest_url
    with staging() as folder:
        manifest = _make(job, plan, folder)
        beside = [entry.name for entry in (manifest.levels.ids, *manifest.levels.vectors)] if manifest.levels else []
        for name in (FILE, *beside, "tuning.json", "timings.json"):
            publish_file(folder / name, f"{plan.folder}/{name}")
    manifest.commit(plan.manifest_url)
    log.info("index %s: %s at %s, recall %.4f", plan.manifest_url, manifest.key, manifest.parameters, manifest.recall)
    return plan.manifest_url


def _make(job: Job, plan: IndexPlan, folder: Path) -> IndexManifest:
    """Index, tuning and timings as local files in `folder`, and the manifest to be committed last."""
    from pipelines.index import build, parts
    from pipelines.index.levels import read_levels, write_levels
    from pipelines.index.proposal import propose
    from pipelines.index.search import Searcher, read_file
    from pipelines.index.tune import tune

    config = job.dataset.index
    proposal = propose(plan.rows, plan.dim, config)
    train_rows = build.training_rows(proposal, plan.rows, plan.dim, config)
    part_rows = max(part.data.rows for part in plan.parts)
    needed = build.build_bytes(proposal, plan.dim, train_rows=train_rows, part_rows=part_rows)
    build.refuse(needed, proposal, plan.rows, plan.dim, config)
    for level, dim in zip(plan.levels, plan.dims, strict=True):
        parts.check(plan.part_urls, dim=dim, level=level)
    log.info("building %s: %s", proposal.key, proposal.reason)
    index = _filled(job, plan, proposal, train_rows)
    build.write(index, folder / FILE)
    del index
    reopened = read_file(folder / FILE)  # what is measured is what will be served
    searcher, levels, files = Searcher(reopened, {}), None, None
    if plan.refined and searcher.keeps_whole_vectors:
        log.warning("index.refine: %s keeps whole vectors already, a second copy only costs time", proposal.key)
    if len(plan.levels) > 1:
        files = write_levels(plan, folder)
        levels = read_levels(folder / files[0].name, tuple(folder / entry.name for entry in files[1]))
    tuning, times = tune(searcher, levels, plan, proposal, train_rows=train_rows, config=config)
    publish_bytes(encode_json(tuning.model_dump(mode="json")), str(folder / "tuning.json"))
    publish_bytes(encode_json({"ms_per_query": times}), str(folder / "timings.json"))
    return IndexManifest(
        dataset=job.layout.dataset,
        embeddings=plan.embeddings_digest,
        queries=plan.queries.data.sha256,
        config_digest=digest_value(promise(config, plan.levels)),
        encoder=plan.parts[0].encoder,
        key=proposal.key,
        parameters=tuning.chosen,
        rows=plan.rows,
        dim=plan.dim,
        recall=tuning.recall,
        recall_k=config.recall_k,
        recall_target=config.recall_target,
        faiss_version=version("faiss-cpu"),
        data=FileEntry(
            name=FILE,
            rows=plan.rows,
            size_bytes=(folder / FILE).stat().st_size,
            sha256=digest_file(str(folder / FILE)),
        ),
        levels=LevelsEntry(**tuning.levels.promised(), ids=files[0], vectors=files[1])
        if tuning.levels is not None and files is not None
        else None,
    )


def _filled(job: Job, plan: IndexPlan, proposal: "Proposal", train_rows: int) -> Any:
    """The trained index with every item in it: filled part by part where its kind allows, by all workers there are.

    Raises:
      LedgerError: it does not hold as many vectors as the manifests say.
    """
    from pipelines import progress
    from pipelines.index import build, partial
    from pipelines.index.parts import Parts
    from pipelines.index.trained import ensure_trained

    where, index = ensure_trained(job.layout, plan, proposal, train_rows=train_rows, seed=job.dataset.index.seed)
    if partial.can_be_partial(index):
        planned = partial.plan_partials(job.layout, where.digest, plan.part_urls, plan.levels[0])
        todo = [one for one in planned if not exists(one.manifest)]
        if todo:
            from pipelines.index.transforms import fill_partials

            with progress.watch(f"index {job.layout.dataset}", total=_rows(todo), unit="vectors"):
                fill_partials(todo, where, beam_args=job.beam_args)
        partial.merge(index, (partial.data_of(one) for one in planned))
    else:
        index = build.with_ids(index)
        build.fill(index, Parts(plan.part_urls, plan.levels[0]))
    if index.ntotal != plan.rows:
        raise LedgerError(f"the index holds {index.ntotal} vectors, the manifests say {plan.rows}")
    return index


def _rows(planned: Sequence["PlannedPartial"]) -> int:
    return sum(EmbeddingManifest.read(one.part).data.rows for one in planned)
