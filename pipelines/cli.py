"""The `fastslow` command: parse, resolve the configs, call one job; nothing else happens here.

Exit codes: 0 done or nothing to do, 1 error, 2 usage, 3 a gate refused, 75 try later, 130 interrupted.
"""

import json
import logging
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipelines import logs
from schemas.errors import ConfigError, FastslowError, exit_code
from schemas.jobs import Job

if TYPE_CHECKING:
    from pipelines.reindex.job import Stage
    from pipelines.reindex.metrics import Record

app = typer.Typer(
    name="fastslow",
    help="Offline indexing for text-to-image and text-to-video search: retrieve fast, rerank slow.",
    epilog="Exit codes: 0 done or nothing to do, 1 error, 2 usage, 3 a gate refused, 75 try later, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Dataset = Annotated[str, typer.Argument(help="A name in configs/datasets, or a YAML file.")]
Root = Annotated[str, typer.Option(help="Output root: a folder, s3://bucket/prefix or gs://bucket/prefix.")]
Shards = Annotated[list[str] | None, typer.Option(help="Instead of the config's; braces and globs, quoted.")]
QueryLog = Annotated[str | None, typer.Option("--queries", help="Instead of the config's: tsv, jsonl or parquet.")]
Encoder = Annotated[str | None, typer.Option(help="Fast side: a name in configs/encoders, or a checkpoint folder.")]
Scorer = Annotated[str | None, typer.Option(help="Slow side, likewise; 'none' for no rerank.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any config value, e.g. rerank.depth=50.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON line on stdout instead of tables.")]
Metrics = Annotated[str | None, typer.Option(help="After the run, however it ends: figures for node_exporter, *.prom.")]
RunnerName = Annotated[
    str | None, typer.Option("--runner", help="Where: a name in configs/runners, e.g. flink; default: this machine.")
]
BeamArgs = Annotated[list[str] | None, typer.Argument(help="Beam options after --, laid over the runner's.")]
Number = Annotated[int | None, typer.Option("--generation", help="Default: the one being served.")]

STAGES: "dict[Stage, tuple[str, str]]" = {
    "reindex": ("The whole job, doing only what changed: embed, index, rerank, evaluate, publish.", "demo"),
    "prepare": ("Makes or fetches the dataset's shards and query log.", "coco"),
    "embed": ("Embeds new and changed shards, and the query log.", "demo --encoder clip-vit-b32"),
    "rerank": ("Re-scores the candidates of every query with the slow side.", "demo --set rerank.depth=50"),
    "evaluate": ("Measures fast against reranked, and what each stage loses.", "demo --json"),
    "publish": ("Checks the gates, writes a generation and serves it.", "demo"),
}
"""Verb -> purpose, example; `index` is below. Each does what is missing before it, too; what is done is skipped."""

_told = False
"""Whether the one line of --json is out: what `doctor` and `verify` find is said once, not as an error again."""


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Debug logs, and tracebacks of errors.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Warnings and errors only.")] = False,
) -> None:
    logs.configure(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)


def _add(verb: "Stage", purpose: str, example: str) -> None:
    def command(
        dataset: Dataset,
        beam_args: BeamArgs = None,
        root: Root = "build",
        runner: RunnerName = None,
        shards: Shards = None,
        queries: QueryLog = None,
        encoder: Encoder = None,
        scorer: Scorer = None,
        settings: Settings = None,
        dry_run: DryRun = False,
        as_json: Json = False,
        metrics: Metrics = None,
    ) -> None:
        from pipelines.jobs import resolve_job
        from pipelines.reindex.metrics import recorded

        chosen = {"runner": runner, "encoder": encoder, "scorer": scorer}
        with recorded(None if dry_run else metrics, dataset, root, until=verb) as record:
            job = resolve_job(
                dataset, beam_args, root=root, shards=shards, queries=queries, settings=settings, **chosen
            )
            said = _run(job, verb, record, dry_run=dry_run)
        _show(*said, as_json=as_json)

    command.__doc__ = f"{purpose}\n\nExample: [bold]fastslow {verb} {example}[/bold]"
    app.command(name=verb)(command)


def _run(job: Job, verb: "Stage", record: "Record", *, dry_run: bool) -> tuple[Any, Any]:
    """What to say, as plain values and as a table."""
    from pipelines import tables
    from pipelines.reindex import job as reindex

    if dry_run:
        steps = reindex.plan(job, until=verb)
        return [step.as_dict() for step in steps], tables.plan_table(job.dataset.name, steps)
    summary = reindex.run(job, until=verb, summary=record.begin(job))
    return summary.as_dict(), tables.summary_table(summary)


for _verb, (_purpose, _example) in STAGES.items():
    _add(_verb, _purpose, _example)


@app.command()
def index(
    dataset: Dataset,
    beam_args: BeamArgs = None,
    root: Root = "build",
    runner: RunnerName = None,
    shards: Shards = None,
    queries: QueryLog = None,
    encoder: Encoder = None,
    scorer: Scorer = None,
    settings: Settings = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the kind of index and what it costs; build none.")
    ] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="With --plan: vectors; default: those embedded.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="With --plan: numbers a vector, likewise.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    metrics: Metrics = None,
) -> None:
    """Builds and tunes the index, and finds every query's candidates.

    Example: [bold]fastslow index demo --set index.recall_target=0.99[/bold]

    What a larger one would take: [bold]fastslow index demo --plan --rows 100000000 --width 512[/bold]
    """
    from pipelines import tables
    from pipelines.jobs import resolve_job
    from pipelines.reindex.metrics import recorded

    chosen = {"runner": runner, "encoder": encoder, "scorer": scorer}
    with recorded(None if plan or dry_run else metrics, dataset, root, until="index") as record:
        job = resolve_job(dataset, beam_args, root=root, shards=shards, queries=queries, settings=settings, **chosen)
        if plan:
            from pipelines.reindex.job import estimate_index

            found = estimate_index(job, rows=rows, width=width)
            said: tuple[Any, Any] = (found._asdict(), tables.estimate_table(found))
        else:
            said = _run(job, "index", record, dry_run=dry_run)
    _show(*said, as_json=as_json)


@app.command()
def doctor(
    dataset: Annotated[str | None, typer.Argument(help="As for reindex; default: the machine and the root.")] = None,
    beam_args: BeamArgs = None,
    root: Root = "build",
    runner: RunnerName = None,
    shards: Shards = None,
    queries: QueryLog = None,
    encoder: Encoder = None,
    scorer: Scorer = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Says whether a run would go well here, and the way out where it would not.

    Example: [bold]fastslow doctor demo[/bold]

    On a cluster: [bold]fastslow doctor demo --root s3://bucket/index --runner flink-workers[/bold]
    """
    from pipelines import tables
    from pipelines.doctor.job import run

    if dataset is not None and dataset.startswith("-"):  # Beam's options, without a dataset
        beam_args, dataset = [dataset, *(beam_args or ())], None
    chosen = {"runner": runner, "encoder": encoder, "scorer": scorer}
    found = run(dataset, beam_args, root=root, shards=shards, queries=queries, settings=settings, **chosen)
    _show(found.as_dict(), tables.findings_table(found.findings), as_json=as_json)
    found.refuse()


@app.command()
def report(dataset: Dataset, root: Root = "build", generation: Number = None, dry_run: DryRun = False) -> None:
    """Writes the HTML page of a generation again, and prints where it is.

    Example: [bold]fastslow report demo[/bold]
    """
    from pipelines.evaluate.report import run
    from pipelines.jobs import layout_of
    from pipelines.search import read_generation

    layout = layout_of(dataset, root)
    found = read_generation(layout, generation)
    _say(layout.report(found.number) if dry_run else run(layout, found))


@app.command()
def search(
    dataset: Dataset,
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    queries: Annotated[str | None, typer.Option(help="Instead of a text: tsv, jsonl, or Parquet of vectors.")] = None,
    out: Annotated[str | None, typer.Option(help="With --queries: the Parquet of answers.")] = None,
    root: Root = "build",
    k: Annotated[int, typer.Option("-k", min=1, help="Results to print.")] = 10,
    rerank: Annotated[bool, typer.Option(help="Re-score the candidates with the slow side.")] = True,
    save: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG).")] = None,
    generation: Number = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Answers one query from the published generation, or, with the fast side alone, a whole log.

    Example: [bold]fastslow search demo "a red circle left of a blue square" --save out.png[/bold]

    A log: [bold]fastslow search demo --queries log.tsv --out answers.parquet -k 100[/bold]
    """
    from pipelines import tables
    from pipelines.jobs import layout_of
    from pipelines.search import open_generation, read_generation

    layout = layout_of(dataset, root)
    if (text is None) == (queries is None) or (queries is None) != (out is None):
        raise ConfigError("search: expected either a text, or --queries with --out")
    if save and not save.parent.is_dir():
        raise ConfigError(f"--save {save}: expected a file in a folder that is there, {save.parent} is not")
    if dry_run:
        found = read_generation(layout, generation)
        _say(f"generation {found.number} of {dataset}: {found.counts.embedded:,} items, index {found.index}")
        return
    if queries is not None and out is not None:
        from pipelines.batch_search import run

        found_rows = run(layout, queries, out, k=k, generation=generation)
        _show(found_rows._asdict(), f"{out}: {found_rows.queries:,} queries, {found_rows.rows:,} rows", as_json=as_json)
        return
    snapshot = open_generation(layout, generation)
    answers = snapshot.answer(text or "", k, rerank=rerank)
    if save:
        save.write_bytes(snapshot.contact_sheet(answers))
    _show([answer.as_dict() for answer in answers], tables.answers_table(text or "", answers), as_json=as_json)
    if save and not as_json:
        _say(f"contact sheet: {save}")


@app.command()
def generations(dataset: Dataset, root: Root = "build", as_json: Json = False) -> None:
    """Lists what was published, the newest first, and which of it is served.

    Example: [bold]fastslow generations demo[/bold]
    """
    from pipelines import tables
    from pipelines.jobs import layout_of
    from pipelines.reindex import history

    layout = layout_of(dataset, root)
    found = history.generations(layout)
    _show([entry.as_dict() for entry in found], tables.generations_table(layout.dataset, found), as_json=as_json)


@app.command()
def rollback(
    dataset: Dataset,
    number: Annotated[int | None, typer.Argument(help="Of the generation; default: the one before.")] = None,
    root: Root = "build",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serves an older generation, or a newer one again; nothing else changes.

    Example: [bold]fastslow rollback demo[/bold]
    """
    from pipelines.jobs import layout_of
    from pipelines.reindex import history

    layout = layout_of(dataset, root)
    served = history.rollback(layout, number, dry_run=dry_run)
    said = f"generation {served} {'would be' if dry_run else 'is'} served"
    _show({"dataset": layout.dataset, "generation": served}, said, as_json=as_json)


@app.command()
def verify(
    dataset: Dataset,
    root: Root = "build",
    items: Annotated[int, typer.Option(min=0, help="To draw, encode and search for again.")] = 32,
    generation: Number = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw; default: the generation's number.")] = None,
    as_json: Json = False,
) -> None:
    """Checks what is published, reading only: every file, and some items from the picture to the index.

    Example: [bold]fastslow verify demo --items 100[/bold]
    """
    from pipelines import tables
    from pipelines.jobs import layout_of
    from pipelines.reindex.verify import run
    from pipelines.search import read_generation

    layout = layout_of(dataset, root)
    found = run(layout, read_generation(layout, generation), items=items, seed=seed)
    _show(found.as_dict(), tables.verified_table(found), as_json=as_json)
    found.refuse()


@app.command()
def rejects(
    dataset: Dataset,
    root: Root = "build",
    examples: Annotated[int, typer.Option(min=0, help="Samples to show of each reason.")] = 3,
    generation: Number = None,
    as_json: Json = False,
) -> None:
    """Lists the samples that a generation could not take in, by stage and reason.

    Example: [bold]fastslow rejects demo[/bold]
    """
    from dataclasses import asdict

    from pipelines import tables
    from pipelines.evaluate.rejects import rejects_of
    from pipelines.jobs import layout_of
    from pipelines.search import read_generation
    from schemas.manifests import EmbeddingManifest

    layout = layout_of(dataset, root)
    urls = [f"{layout.root}/{part}" for part in read_generation(layout, generation).embeddings]
    found = rejects_of(urls, EmbeddingManifest.read_all(urls), examples_each=examples)
    _show([asdict(group) for group in found], tables.rejects_table(layout.dataset, found), as_json=as_json)


@app.command()
def replay(
    dataset: Dataset,
    beam_args: BeamArgs = None,
    root: Root = "build",
    runner: RunnerName = None,
    shards: Shards = None,
    queries: QueryLog = None,
    encoder: Encoder = None,
    scorer: Scorer = None,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    metrics: Metrics = None,
) -> None:
    """Tries refused samples once more, after a fix or a failure that has passed, and publishes what comes of it.

    Example: [bold]fastslow replay demo[/bold]
    """
    from pipelines import tables
    from pipelines.jobs import resolve_job
    from pipelines.reindex import job as reindex
    from pipelines.reindex.metrics import recorded

    chosen = {"runner": runner, "encoder": encoder, "scorer": scorer}
    with recorded(None if dry_run else metrics, dataset, root, until="reindex") as record:
        job = resolve_job(dataset, beam_args, root=root, shards=shards, queries=queries, settings=settings, **chosen)
        if dry_run:
            steps = reindex.plan_replay(job)
            _show([step.as_dict() for step in steps], tables.plan_table(job.dataset.name, steps), as_json=as_json)
            return
        summary = reindex.replay(job, summary=record.begin(job))
    _show(summary.as_dict(), tables.summary_table(summary), as_json=as_json)


@app.command()
def gc(
    dataset: Dataset,
    keep: Annotated[int, typer.Option(min=1, help="Newest generations to keep.")] = 5,
    least_age: Annotated[float, typer.Option(min=0, help="Hours; younger files stay.")] = 24.0,
    root: Root = "build",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Removes files that no kept generation names; the one that is served, and the one before it, are always kept.

    Example: [bold]fastslow gc demo --keep 3 --dry-run[/bold]
    """
    from pipelines.jobs import layout_of
    from pipelines.reindex.gc import collect

    done = collect(layout_of(dataset, root), keep, least_age_s=3600 * least_age, dry_run=dry_run)
    said = f"{len(done.removed):,} files, {done.bytes / 1e6:,.1f} MB {'would be ' if dry_run else ''}removed"
    kept = ", ".join(map(str, done.kept)) or "none"
    _show(done._asdict(), f"{said}; generations kept: {kept}", as_json=as_json)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A name in configs/train, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    shards: Shards = None,
    validation_shards: Annotated[list[str] | None, typer.Option(help="Never trained on; chooses the step.")] = None,
    settings: Settings = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not go on from what is in the folder.")] = False,
    stop_after: Annotated[int | None, typer.Option(min=1, help="End after so many steps of the schedule.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Trains a model, resumable at any checkpoint, and exports a folder that --encoder takes.

    Example: [bold]fastslow train demo-loopitr --out checkpoints/mine[/bold]
    """
    from pipelines import training_job

    if dry_run:
        chosen = training_job.read_config(
            config, shards=shards or (), validation_shards=validation_shards or (), settings=settings or ()
        )
        _print_json(chosen.model_dump(mode="json"))
        return
    found = training_job.run(
        config,
        out=str(out),
        shards=shards or (),
        validation_shards=validation_shards or (),
        settings=settings or (),
        resume=not fresh,
        stop_after=stop_after,
    )
    if as_json:
        _print_json(found)
    else:
        _say(f"{out}: {json.dumps(found['metrics'])}")


@app.command()
def claims(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes hours of training.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Ids, e.g. FS4; again for more.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="Of galleries and trainings; again for more.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Replace what was recorded with other seeds.")] = False,
    on: Annotated[str, typer.Option(help="scenes, or flickr8k.")] = "scenes",
    shards: Annotated[Path | None, typer.Option(help="Folder of Flickr8k's shards.")] = None,
    settings: Settings = None,
    targets: Annotated[bool, typer.Option("--targets", help="How far --encoder and --scorer get on Flickr8k.")] = False,
    encoder: Annotated[str | None, typer.Option(help="Checkpoint of the fast side, of --targets.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Checkpoint that reranks, of --targets.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="Captions scored with all photos, of --targets.")] = 200,
    other: Annotated[list[str] | None, typer.Option(help="NAME=GLOB of more captioned shards, of --targets.")] = None,
    page: Annotated[bool, typer.Option("--page", help="Only write claims.md again from the JSON files.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of claims.json and claims.md.")] = Path("docs"),
    work: Annotated[Path, typer.Option(help="Folder of models trained on the way.")] = Path("build/claims"),
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measures what the five papers claim with our own models, and writes docs/claims.md.

    Example: [bold]fastslow claims --quick[/bold]
    """
    from pipelines import tables
    from pipelines.claims import job
    from pipelines.claims.papers import CLAIMS

    if dry_run:
        listed = {name: {"says": one.says, "bound": one.bound} for name, one in CLAIMS.items()}
        _show(listed, tables.claims_table(CLAIMS, {}), as_json=as_json)
        return
    if page:
        job.page(out)
        _show({"page": str(out / "claims.md")}, f"{out / 'claims.md'} is written again", as_json=as_json)
        return
    if targets:
        reached = job.reach(out, encoder=encoder, scorer=scorer, folder=shards, texts=texts, others=other or ())
        _show(reached, tables.targets_table(reached), as_json=as_json)
        return
    bench = job.bench_of(on, folder=shards, work=work, settings=settings or ())
    folder = work if bench.name == "scenes" else work / bench.name
    found = job.run(
        out, folder=folder, quick=quick, seeds=seeds or job.SEEDS, only=only or (), bench=bench, again=again
    )
    _show({name: one.as_dict() for name, one in found.items()}, tables.claims_table(CLAIMS, found), as_json=as_json)


def _show(value: Any, table: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(value)
    elif isinstance(table, str):
        _say(table)
    else:
        Console().print(table)


def _print_json(value: Any) -> None:
    global _told  # noqa: PLW0603
    _told = True
    sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")


def _say(text: str) -> None:
    Console().print(text, soft_wrap=True, highlight=False, markup=False)


def main() -> None:
    """Runs the command and ends the process with its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped by a scheduler, it ends as by Ctrl-C
    try:
        app()
    except FastslowError as error:
        _fail(error, f"{error}")
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != exit_code(
            KeyboardInterrupt()
        ):  # typer makes one of the other
            raise
        _fail(KeyboardInterrupt(), "interrupted; run the same command again to go on from here")
    except Exception as error:  # noqa: BLE001 - a person gets one line, --debug the rest
        _fail(error, f"{type(error).__name__}: {error} (--debug shows where)")


def _fail(error: BaseException, message: str) -> None:
    code = exit_code(error)
    if logging.getLogger(logs.OURS[0]).isEnabledFor(logging.DEBUG):
        sys.stderr.write(traceback.format_exc())
    Console(stderr=True).print(f"fastslow: {message}", style="red", soft_wrap=True, highlight=False, markup=False)
    if "--json" in sys.argv and not _told:
        _print_json({"arguments": sys.argv[1:], "error": type(error).__name__, "exit_code": code, "message": message})
    sys.exit(code)


if __name__ == "__main__":
    main()
