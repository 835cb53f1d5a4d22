"""The index stage: plan, refuse, train or reuse, fill, merge, reopen, tune, publish; a finished index is skipped."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.index.plan import Base, IndexPlan, config_digest, pending, plan_index
from schemas.commits import encode_json, exists, publish_bytes, publish_file, staging
from schemas.errors import IndexBuildError, LedgerError
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest, FileEntry, IndexManifest, LevelsEntry, Lineage

if TYPE_CHECKING:
    from pipelines.index.assemble import Assembled, Filled
    from pipelines.index.partial import PlannedPartial
    from pipelines.index.proposal import Proposal
    from pipelines.index.trained import Trained
    from pipelines.index.tune import Start, Tuning

log = logging.getLogger(__name__)


def run(job: Job, embedding_manifest_urls: Sequence[str], queries_manifest_url: str, base: Base | None = None) -> str:
    """Builds and tunes the index of a set of embedding parts, unless it is there.

    Args:
      base: the index being served, to work the changes into; see `plan_index` and `reuse`.

    Returns:
      URL of the index manifest. Beside it: `index.faiss` and `ids.npy` (or, appended to another, those of what is new),
      `tuning.json` (see `tune.Tuning`) and `timings.json` (milliseconds and seconds as measured on this machine, the
      only file that differs between runs); for coarse to fine also the vectors of the levels above the index.

    Raises:
      InputError, StaleError: the parts cannot be indexed together (see `plan_index` and `parts.check`).
      ConfigError: `index.key`, a size or the levels in the config make no sense.
      IndexBuildError: nothing fits into the memory allowed, or the recall target or the latency is out of reach.
    """
    plan = plan_index(job, embedding_manifest_urls, queries_manifest_url, base)
    if not pending(plan):
        log.debug("index %s is there", plan.manifest_url)
        return plan.manifest_url
    with staging() as folder:
        manifest = _Making(job, plan, folder).make()
        made = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in made:
            publish_file(path, f"{plan.folder}/{path.relative_to(folder).as_posix()}")
    manifest.commit(plan.manifest_url)
    log.info("index %s: %s at %s, recall %.4f", plan.manifest_url, manifest.key, manifest.parameters, manifest.recall)
    return plan.manifest_url


class _Making:
    """One index being made in a local folder."""

    def __init__(self, job: Job, plan: IndexPlan, folder: Path) -> None:
        self.job, self.plan, self.folder = job, plan, folder
        self.config = job.dataset.index
        self.seconds: dict[str, float] = {}

    def make(self) -> IndexManifest:
        """All files, and the manifest to be committed last."""
        from pipelines.index.reuse import decide

        decision = decide(self.plan, self.config)
        if self.plan.change is not None:
            log.info("index of %s: %s: %s", self.job.layout.dataset, decision.action, decision.reason)
        if decision.action != "train":
            made = self._reused(decision.action)
            if made is not None:
                return made
            _emptied(self.folder)
        return self._trained_anew()

    def _trained_anew(self) -> IndexManifest:
        """From the parts alone."""
        from pipelines.index import assemble, build, partial, parts
        from pipelines.index.proposal import propose
        from pipelines.index.trained import ensure_trained

        plan, config = self.plan, self.config
        proposal = propose(plan.rows, plan.dim, config)
        train_rows = build.training_rows(proposal, plan.rows, plan.dim, config)
        needed = build.build_bytes(
            proposal, plan.dim, train_rows=train_rows, part_rows=max(part.data.rows for part in plan.parts)
        )
        build.refuse(needed, proposal, plan.rows, plan.dim, config)
        with self._timed("check"):
            for level, dim in zip(plan.levels, plan.dims, strict=True):
                parts.check(plan.part_urls, dim=dim, level=level)
        log.info("building %s: %s", proposal.key, proposal.reason)
        with self._timed("train"):
            where, index = ensure_trained(self.job.layout, plan, proposal, train_rows=train_rows, seed=config.seed)
        if not partial.can_be_partial(index):
            if config.shards > 1:
                log.warning("index.shards: %s has no inverted lists, it is one file", proposal.key)
            with self._timed("fill"):
                made = assemble.in_one_process(plan, index, self.folder)
            return self._measured(made, proposal, train_rows, lineage=None)
        made = self._merged(where, index, plan.part_urls)
        return self._measured(made, proposal, train_rows, lineage=_lineage(where.digest, plan, made))

    def _reused(self, action: str) -> IndexManifest | None:
        """With what the base was trained to; None where that no longer does."""
        from pipelines.index import assemble, parts
        from pipelines.index.proposal import Proposal, estimated_bytes, parse_bytes
        from pipelines.index.reuse import added_rows, drifted, imbalance_of, removed_rows
        from pipelines.index.trained import named, open_trained
        from pipelines.index.tune import Start, read_tuning
        from schemas.manifests import TrainedManifest

        plan, change = self.plan, self.plan.change
        if change is None:
            return None
        built, lineage, before = change.built, change.built.lineage, read_tuning(change.base.manifest)[0]
        proposal = Proposal(built.key, before.reason, estimated_bytes(built.key, plan.rows, plan.dim))
        start = Start(built.parameters, built.levels.shortlist if built.levels else ())
        if lineage is None:  # only the queries are others
            made = assemble.beside(change, plan, None, lambda _: [], self.folder)
            return self._measured(made, proposal, before.train_rows, lineage=None, start=start)
        where = named(self.job.layout, lineage.trained)
        if not exists(where.manifest_url):
            log.info("training anew: %s is gone", where.manifest_url)
            return None
        if proposal.estimated_bytes > parse_bytes(self.config.max_memory, what="index.max_memory"):
            log.info("training anew: %s would take more than index.max_memory by now", built.key)
            return None
        with self._timed("check"):
            for level, dim in zip(plan.levels, plan.dims, strict=True):
                parts.check(change.added, dim=dim, level=level)
            assemble.refuse_known(change)
        trained, filled = open_trained(where), self._filled(where)
        error = assemble.mean_error(filled(change.added), change.added) if change.added else None
        if action == "merge":
            made = self._merged(where, trained, plan.part_urls)
        else:
            with self._timed("merge"):
                made = assemble.beside(change, plan, trained, filled, self.folder)
        imbalance = imbalance_of(made.sizes) if made.sizes is not None else 1.0
        reason = drifted(lineage, error=error, imbalance=imbalance, config=self.config)
        if reason is not None:
            log.info("training anew: %s", reason)
            return None
        changed = lineage.changed + added_rows(change) + removed_rows(change)
        lineage = lineage.model_copy(update={"changed": changed})
        rows = TrainedManifest.read(where.manifest_url).rows
        try:
            return self._measured(made, proposal, rows, lineage=lineage, start=start if action != "merge" else None)
        except IndexBuildError as error:
            log.warning("training anew: %s", error)
            return None

    def _merged(self, where: "Trained", trained: Any, parts: Sequence[str]) -> "Assembled":
        from pipelines.index import assemble

        filled = self._filled(where)
        filled(parts)  # all at once: Beam spreads them over all workers there are
        with self._timed("merge"):
            return assemble.from_partials(self.plan, trained, filled, self.folder, shards=self.config.shards)

    def _filled(self, where: "Trained") -> "Filled":
        """Partial indexes of some parts, filled by Beam where they are not there."""
        from pipelines import progress
        from pipelines.index import partial

        def filled(parts: Sequence[str]) -> "list[PlannedPartial]":
            planned = partial.plan_partials(self.job.layout, where.digest, parts, self.plan.levels[0])
            todo = [one for one in planned if not exists(one.manifest)]
            if todo:
                from pipelines.index.transforms import fill_partials
                from pipelines.runners.following import following

                rows = [part.data.rows for part in EmbeddingManifest.read_all(one.part for one in todo)]
                runner = replace(self.job.runner, processes=1)  # FAISS takes all cores in one
                units = {one.manifest: float(count) for one, count in zip(todo, rows, strict=True)}
                with (
                    self._timed("fill"),
                    progress.watch(f"index {self.job.layout.dataset}", total=sum(rows), unit="vectors"),
                    following(units, runner, lambda url: int(units[url])),
                ):
                    fill_partials(todo, where, runner=runner)
            return planned

        return filled

    def _measured(
        self,
        made: "Assembled",
        proposal: "Proposal",
        train_rows: int,
        *,
        lineage: Lineage | None,
        start: "Start | None" = None,
    ) -> IndexManifest:
        """Reopens what was written, tunes it, and says what it promises."""
        from pipelines.index.levels import read_levels
        from pipelines.index.search import open_files
        from pipelines.index.truth import KNOWN, write_known
        from pipelines.index.tune import tune

        plan, config = self.plan, self.config
        searcher = open_files([lists for lists, _, _ in made.files], made.deleted, {})
        if searcher.items != plan.rows:
            raise LedgerError(f"the index holds {searcher.items} vectors, the manifests say {plan.rows}")
        levels = None
        if len(plan.levels) > 1:
            levels = read_levels([(ids, vectors) for _, ids, vectors in made.files], made.deleted)
        if plan.refined and searcher.keeps_whole_vectors:
            log.warning("index.refine: %s keeps whole vectors already, a second copy only costs time", proposal.key)
        with self._timed("tune"):
            tuning, times, known = tune(
                searcher,
                levels,
                plan,
                proposal,
                train_rows=train_rows,
                config=config,
                layout=self.job.layout,
                start=start,
            )
        publish_bytes(encode_json(tuning.model_dump(mode="json")), str(self.folder / "tuning.json"))
        write_known(known, self.folder / KNOWN)
        truth = FileEntry.of(self.folder / KNOWN, KNOWN, len(known.names))
        timings = {
            "ms_per_query": {label: spent.batch for label, spent in times.items()},
            "ms_alone": {label: spent.alone for label, spent in times.items()},
            "seconds": {step: round(value, 2) for step, value in self.seconds.items()},
        }
        publish_bytes(encode_json(timings), str(self.folder / "timings.json"))
        return _manifest(self.job, plan, made, tuning, truth, lineage)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        within = sum(self.seconds.values())
        yield
        spent = time.monotonic() - started - (sum(self.seconds.values()) - within)  # of steps inside, each its own
        self.seconds[step] = self.seconds.get(step, 0.0) + spent


def _lineage(trained: str, plan: IndexPlan, made: "Assembled") -> Lineage | None:
    from pipelines.index.reuse import imbalance_of

    if made.sizes is None:
        return None
    rows = sum(segment.ids.rows for segment in made.segments)
    error = sum((segment.error or 0.0) * segment.ids.rows for segment in made.segments) / max(1, rows)
    return Lineage(trained=trained, rows=plan.rows, error=round(error, 6), imbalance=imbalance_of(made.sizes))


def _manifest(
    job: Job, plan: IndexPlan, made: "Assembled", tuning: "Tuning", truth: FileEntry, lineage: Lineage | None
) -> IndexManifest:
    config = job.dataset.index
    return IndexManifest(
        dataset=job.layout.dataset,
        embeddings=plan.embeddings_digest,
        queries=plan.queries.data.sha256,
        config_digest=config_digest(config, plan.levels),
        encoder=plan.parts[0].encoder,
        key=tuning.key,
        parameters=tuning.chosen,
        rows=plan.rows,
        dim=plan.dim,
        recall=tuning.recall,
        recall_k=config.recall_k,
        recall_target=config.recall_target,
        self_recall=tuning.self_recall,
        faiss_version=version("faiss-cpu"),
        segments=made.segments,
        tombstones=made.tombstones,
        truth=truth,
        lineage=lineage,
        levels=LevelsEntry(**tuning.levels.promised()) if tuning.levels is not None else None,
    )


def _emptied(folder: Path) -> None:
    """Removes what an attempt has left."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
