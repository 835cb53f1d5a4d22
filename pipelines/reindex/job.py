"""fastslow reindex: every stage in order, only what changed; then gates, a generation, the pointer, the page.

Each stage names its output by its inputs, so asking whether it is done means asking whether its manifest exists.
Heavy stages run in a process of their own (see `apart`); this one reads manifests and imports neither torch nor faiss.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pipelines.doctor import runner
from pipelines.embed import job as embed
from pipelines.embed import plan as embed_plan
from pipelines.embed import queries as query_stage
from pipelines.evaluate import job as evaluate
from pipelines.index import candidates as candidate_stage
from pipelines.index import job as index
from pipelines.index import plan as index_plan
from pipelines.prepare import job as prepare
from pipelines.reindex import gates, publish
from pipelines.reindex.lock import locked
from pipelines.reindex.summary import Step, Summary
from pipelines.rerank import job as rerank
from pipelines.runners.apart import run_apart
from schemas.commits import exists
from schemas.digests import digest_value
from schemas.errors import ConfigError, InputError, LedgerError
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest, Generation, IndexManifest, embedding_set_digest

if TYPE_CHECKING:
    from pipelines.doctor.finding import Finding
    from pipelines.index.estimate import Estimate

logger = logging.getLogger(__name__)

Stage = Literal["prepare", "embed", "index", "rerank", "evaluate", "publish", "reindex"]
STAGES: tuple[Stage, ...] = ("prepare", "embed", "index", "rerank", "evaluate", "publish", "reindex")


@dataclass
class Run:
    """One run of a job: what the stages have left so far."""

    job: Job
    summary: Summary
    served: Generation | None = None
    prepared: prepare.Prepared = field(init=False)
    embedded: embed_plan.EmbedPlan = field(init=False)
    queries: str = field(init=False)
    index: str = field(init=False)
    candidates: str = field(init=False)
    rankings: str = field(init=False)

    @property
    def base(self) -> index_plan.Base | None:
        """The index being served, which the next one may be made of."""
        if self.served is None:
            return None
        return index_plan.Base(f"{self.job.layout.root}/{self.served.index}", self.earlier)

    @property
    def earlier(self) -> tuple[str, ...]:
        """Manifests of the parts being served, whose vectors are taken over where items are the same."""
        return tuple(f"{self.job.layout.root}/{part}" for part in self.served.embeddings) if self.served else ()

    @property
    def ranked(self) -> str | None:
        """Manifest of the rankings being served, whose scores are taken over where pairs are the same."""
        found = self.served.rankings if self.served is not None else None
        return f"{self.job.layout.root}/{found}" if found is not None else None

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Counts the seconds of a stage that has work to do, also of one that fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.summary.seconds[stage] = time.monotonic() - start


def run(job: Job, *, until: Stage = "reindex", summary: Summary | None = None) -> Summary:
    """Runs everything up to and including a stage; what is done is skipped.

    Args:
      summary: filled as the run goes on, for callers that want to know how far one came that failed.

    Raises:
      BusyError: another run is at work on the dataset.
      FastslowError: as the stages raise; GateError when the generation is built but refused.
    """
    _refuse_runner(job)
    with locked(job.layout, f"fastslow {until}"):
        return _run(job, until, summary or Summary(job.dataset.name))


def replay(job: Job, *, summary: Summary | None = None) -> Summary:
    """Tries samples that were refused once more, and publishes what comes of it; nothing else is embedded again.

    It helps after a failure that has passed, or a repaired program; a shard that was repaired is another shard, and
    taken up by `run`.

    Errors and arguments as of `run`.
    """
    _refuse_runner(job)
    with locked(job.layout, "fastslow replay"):
        todo = _refused(job)
        if todo.pending:
            logger.info("%s: samples of %d shards are tried again", job.dataset.name, len(todo.pending))
            run_apart(partial(embed.run, replay=True), job, [shard.url for shard in todo.shards])
        else:
            logger.info("%s: no sample was refused, there is nothing to try again", job.dataset.name)
        return _run(job, "reindex", summary or Summary(job.dataset.name))


def _refuse_runner(job: Job) -> None:
    """Options that cannot work are named before anything is submitted."""
    if not job.runner.beam_args:
        return
    found = runner.look(job.runner, root=job.layout.root, shards=job.dataset.shards, models=job.models)
    for one in found:
        if one.state == "warning":
            logger.warning("%s", _said(one))
    errors = [_said(one) for one in found if one.state == "error"]
    if errors:
        raise ConfigError("; ".join(errors))


def _said(one: "Finding") -> str:
    return f"{one.found}; the way out: {one.remedy}" if one.remedy else one.found


def plan_replay(job: Job) -> list[Step]:
    """What `replay` would try again."""
    todo = _refused(job)
    if not todo.pending:
        return [Step("embed", "done", "no sample was refused")]
    rejects = sum(EmbeddingManifest.read(shard.earlier).counts.rejected for shard in todo.pending if shard.earlier)
    return [Step("embed", "to do", f"{rejects} refused samples of {len(todo.pending)} shards")]


def _refused(job: Job) -> embed_plan.EmbedPlan:
    """The shards, those with refused samples to do."""
    if prepare.pending(job):
        raise InputError(f"{job.dataset.name} is not prepared, there is nothing to replay; run fastslow reindex")
    return embed_plan.plan(job, prepare.run(job).shards, replay=True)


def _run(job: Job, until: Stage, summary: Summary) -> Summary:
    started = publish.current(job.layout)  # the plan is made against this; CURRENT moves only if it still stands
    served = Generation.read(job.layout.generation(started)) if started is not None else None
    state = Run(job, summary, served)
    for stage in STAGES[: STAGES.index(until) + 1]:
        _STEPS[stage](state)
    if STAGES.index(until) >= STAGES.index("publish"):
        _publish(state)
    state.summary.generation = publish.current(job.layout)
    if state.summary.generation is not None:
        state.summary.report = job.layout.report(state.summary.generation)
    return state.summary


def plan(job: Job, *, until: Stage = "reindex") -> list[Step]:
    """What `run` would do; writes nothing under the root but memos of file digests."""
    steps: list[Step] = []
    state = Run(job, Summary(job.dataset.name), publish.served(job.layout))
    wanted = STAGES[: min(STAGES.index(until), STAGES.index("publish")) + 1]
    for stage in wanted:
        if steps and steps[-1].state != "done":
            steps.append(
                Step(stage, "after", f"decided after {steps[-1].stage if steps[-1].state == 'to do' else 'that'}")
            )
            continue
        steps.append(_look(stage, state))
    return steps


def estimate_index(job: Job, *, rows: int | None = None, width: int | None = None) -> "Estimate":
    """What the index would be and cost: of what is embedded, or of `rows` vectors of a width.

    Raises:
      InputError: not all shards are embedded, and rows or width are not given.
      ConfigError, IndexBuildError: as `estimate.estimate`.
    """
    from pipelines.index.estimate import PART_ROWS, estimate

    if rows is not None and width is not None:
        return estimate(rows, width, job.dataset.index, part_rows=min(rows, PART_ROWS))
    if prepare.pending(job):
        raise InputError(f"{job.dataset.name} is not prepared; run fastslow embed, or give --rows and --width")
    todo = embed_plan.plan(job, prepare.run(job).shards)
    if todo.pending:
        raise InputError(
            f"{len(todo.pending)} of {len(todo.shards)} shards are not embedded; run fastslow embed, or give --rows "
            "and --width"
        )
    parts = EmbeddingManifest.read_all(todo.manifests)
    level = index_plan.levels_of(parts[0].dims, job.dataset.index)[0]
    found = [part.data.rows for part in parts]
    return estimate(rows or sum(found), width or parts[0].dims[level], job.dataset.index, part_rows=max(found))


def _look(stage: Stage, state: Run) -> Step:
    """The state of one stage, all earlier ones being done."""
    job = state.job
    if stage == "prepare":
        if prepare.pending(job):
            config = job.dataset.prepare
            return Step(stage, "to do", f"{config.kind if config else ''} -> {job.layout.shards()}")
    elif stage == "embed":
        state.prepared = prepare.run(job)
        todo = embed_plan.plan(job, state.prepared.shards)
        if todo.pending:
            size = sum(shard.size_bytes for shard in todo.pending) / 1e6
            found = embed_plan.difference(todo, state.earlier)
            return Step(stage, "to do", f"{found}; {len(todo.pending)} to embed, {size:,.1f} MB, {job.encoder.path}")
        if query_stage.pending(job, todo, state.prepared.queries):
            return Step(stage, "to do", f"queries of {state.prepared.queries or 'the captions'}")
    elif _pending(stage, state):
        return Step(stage, "to do", {"rerank": job.scorer.path if job.scorer else "no scorer"}.get(stage, ""))
    _STEPS[stage](state)
    return Step(stage, "done", "nothing to do")


def _pending(stage: Stage, state: Run) -> bool:
    """Whether a stage after `embed` has work to do, all earlier ones being done."""
    job = state.job
    if stage == "index":
        planned = index_plan.plan_index(job, state.embedded.manifests, state.queries, state.base)
        if index_plan.pending(planned):
            return True
        found = candidate_stage.plan_candidates(job, state.embedded.manifests, planned.manifest_url, state.queries)
        return candidate_stage.pending(found)
    if stage == "rerank":
        return rerank.pending(job, state.candidates, state.queries)
    if stage == "evaluate":
        return not exists(evaluate.metrics_url(state.rankings))
    return state.served is None or state.served.content != _content(state)["content"]


def _prepare(state: Run) -> None:
    if prepare.pending(state.job):
        with state.timed("prepare"):
            run_apart(prepare.run, state.job)
    state.prepared = prepare.run(state.job)


def _embed(state: Run) -> None:
    job, prepared = state.job, state.prepared
    todo = embed_plan.plan(job, prepared.shards)
    if state.served is not None and set(todo.manifests) != set(state.earlier):
        logger.info("%s: %s", job.dataset.name, embed_plan.difference(todo, state.earlier))
    if todo.pending or query_stage.pending(job, todo, prepared.queries):
        with state.timed("embed"):
            run_apart(embed_and_encode_queries, job, prepared.shards, prepared.queries, state.earlier)
    state.embedded = embed.run(job, prepared.shards)
    state.queries = query_stage.run(job, state.embedded, prepared.queries)
    state.summary.counts = embed.total(EmbeddingManifest.read_all(state.embedded.manifests))


def embed_and_encode_queries(job: Job, shards: Sequence[str], log: str | None, earlier: Sequence[str]) -> None:
    """Everything the fast encoder is loaded for."""
    query_stage.run(job, embed.run(job, shards, earlier), log)


def _index(state: Run) -> None:
    job, parts = state.job, state.embedded.manifests
    if _pending("index", state):
        with state.timed("index"):
            run_apart(index_and_search, job, parts, state.queries, state.base)
    state.index = index.run(job, parts, state.queries, state.base)
    state.candidates = candidate_stage.run(job, parts, state.index, state.queries)
    state.summary.index = IndexManifest.read(state.index)


def index_and_search(job: Job, parts: Sequence[str], queries: str, base: index_plan.Base | None) -> None:
    """Everything faiss is loaded for."""
    candidate_stage.run(job, parts, index.run(job, parts, queries, base), queries)


def _rerank(state: Run) -> None:
    if _pending("rerank", state):
        with state.timed("rerank"):
            run_apart(rerank.run, state.job, state.embedded, state.candidates, state.queries, state.ranked)
    state.rankings = rerank.run(state.job, state.embedded, state.candidates, state.queries)


def _evaluate(state: Run) -> None:
    arguments = (state.job, state.embedded, state.index, state.queries, state.rankings)
    if _pending("evaluate", state):
        with state.timed("evaluate"):
            run_apart(evaluate.run, *arguments)
    state.summary.metrics = evaluate.run(*arguments)


def _publish(state: Run) -> None:
    """A generation, the gates, its page, then CURRENT; nothing when the served one has the same content."""
    from pipelines.evaluate.report import run as write_report

    job, summary, served = state.job, state.summary, state.served
    started = served.number if served is not None else None
    fields = _content(state)
    if served is not None and served.content == fields["content"]:
        if not exists(job.layout.report(served.number)):
            with state.timed("publish"):
                write_report(job.layout, served)
        return
    seconds = {stage: round(value, 2) for stage, value in summary.seconds.items()}
    fields |= {"counts": summary.counts, "metrics": summary.metrics, "seconds": seconds}
    generation = publish.write_generation(job.layout, fields, parent=started)
    with state.timed("publish"):
        gates.judge(job.layout, generation.number)
        write_report(job.layout, generation)  # before the pointer: what is served, or refused, can be looked at
    results = gates.read_results(job.layout, generation.number)
    if results is None:
        raise LedgerError(f"{job.layout.gates(generation.number)}: not there after the gates were asked; run again")
    gates.refuse(results, job.layout.report(generation.number))
    publish.serve(job.layout, generation.number, expected=started)
    summary.published = generation.number
    logger.info("generation %d of %s is served", generation.number, job.dataset.name)


def _content(state: Run) -> dict[str, Any]:
    """The fields of a generation that say what it serves, and their digest as its name."""
    layout = state.job.layout
    root = f"{layout.root}/"
    manifests = EmbeddingManifest.read_all(state.embedded.manifests)
    fields: dict[str, Any] = {
        "dataset": layout.dataset,
        "embeddings": tuple(url.removeprefix(root) for url in state.embedded.manifests),
        "embeddings_digest": embedding_set_digest(manifests),
        "queries": state.queries.removeprefix(root),
        "index": state.index.removeprefix(root),
        "candidates": state.candidates.removeprefix(root),
        "rankings": state.rankings.removeprefix(root),
        "config": state.job.dataset.model_dump(mode="json"),
    }
    return fields | {"content": digest_value(fields)}


def _nothing(_: Run) -> None:
    """Publishing needs to know where the run began; `run` does it after the stages."""


_STEPS = {
    "prepare": _prepare,
    "embed": _embed,
    "index": _index,
    "rerank": _rerank,
    "evaluate": _evaluate,
    "publish": _nothing,
    "reindex": _nothing,
}
