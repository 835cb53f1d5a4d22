"""What a person reads at the end of a command: plans, the closing table, answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.reindex.summary import Step, Summary
from pipelines.search import Answer
from schemas.manifests import LevelsEntry

if TYPE_CHECKING:  # the measuring libraries are slow to load
    from pipelines.claims.job import Outcome
    from pipelines.claims.papers import Claim
    from pipelines.doctor.finding import Finding as Looked
    from pipelines.evaluate.report_data import RejectExample, RejectGroup
    from pipelines.index.estimate import Estimate
    from pipelines.reindex.history import Entry
    from pipelines.reindex.verify import Verified

_VERDICTS = {"holds": "green", "does not hold": "red", "not tested": "dim"}
_STATES = {"done": "green", "to do": "yellow", "after": "dim"}
_CHECKED = {"ok": "green", "warning": "yellow", "not run": "dim", "error": "red", "FAILED": "red"}

SHOWN = 5
"""Problems named of one check; the others are counted."""


def plan_table(dataset: str, steps: Sequence[Step]) -> Table:
    """The plan of a run, a line a stage."""
    table = Table(title=f"plan of {dataset}: nothing is written", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("stage", "state", "what"):
        table.add_column(name)
    for step in steps:
        table.add_row(step.stage, Text(step.state, style=_STATES[step.state]), Text(step.detail))
    return table


def estimate_table(found: "Estimate") -> Table:
    """What an index would be and cost."""
    from pipelines.index.proposal import human

    title = f"index of {found.rows:,} vectors of width {found.dim}: nothing is built"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    table.add_column("what", style="dim")
    table.add_column("value")
    table.add_row("kind", found.key)
    table.add_row("why", found.reason)
    table.add_row("serving", f"{human(found.serving_bytes)} of memory")
    table.add_row("building", f"{human(found.build_bytes)} of memory, {human(found.disk_bytes)} of disk")
    if found.train_macs:
        spent = f"about {found.train_seconds:,.0f} s of k-means on this machine"
        table.add_row("training", f"{found.train_rows:,} vectors, {spent}")
    return table


def generations_table(dataset: str, entries: "Sequence[Entry]") -> Table | str:
    """The generations of a dataset, the newest first."""
    if not entries:
        return f"nothing of {dataset} is published here yet; run: fastslow reindex {dataset}"
    table = Table(title=f"generations of {dataset}", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("number", "made (UTC)", "items", "R@1", ""):
        table.add_column(name, justify="right" if name in ("number", "items", "R@1") else "left")
    for entry in entries:
        table.add_row(
            f"{entry.number}",
            entry.created.removesuffix("+00:00").replace("T", " "),
            f"{entry.items:,}",
            "" if entry.r1 is None else f"{entry.r1:.3f}",
            "served" if entry.served else "refused" if entry.refused else "",
        )
    return table


def rejects_table(dataset: str, groups: "Sequence[RejectGroup]") -> Table | str:
    """What was refused: a line a reason, its samples below it."""
    if not groups:
        return f"no sample of {dataset} was refused"
    total = sum(group.count for group in groups)
    samples = "1 sample" if total == 1 else f"{total:,} samples"
    table = Table(title=f"{samples} of {dataset} refused", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("count", "stage", "reason", "for example"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for group in groups:
        found = "\n".join(_example(one) for one in group.examples)
        table.add_row(f"{group.count:,}", group.stage, group.error, Text(found))
    return table


def _example(one: "RejectExample") -> str:
    """A refused sample; what is wrong with a whole shard names it already."""
    return f"{one.key} in {one.shard.rsplit('/', 1)[-1]}: {one.message}" if one.key else one.message


def verified_table(found: "Verified") -> Table:
    """A line a check, its problems and the way out below it."""
    title = f"generation {found.generation} of {found.dataset}, items drawn with seed {found.seed}"
    table = _checks_table(title)
    for check in found.checks:
        table.add_row(check.name, Text(check.state, style=_CHECKED[check.state]), Text(check.figure))
        for problem in check.problems[:SHOWN]:
            table.add_row("", "", Text(problem))
        if len(check.problems) > SHOWN:
            table.add_row("", "", f"and {len(check.problems) - SHOWN:,} more")
        if check.remedy:
            table.add_row("", "", Text(f"-> {check.remedy}", style="dim"))
    return table


def findings_table(findings: "Sequence[Looked]") -> Table:
    """A line a finding, the way out below it."""
    table = _checks_table("would a run go well here?")
    for finding in findings:
        table.add_row(finding.check, Text(finding.state, style=_CHECKED[finding.state]), Text(finding.found))
        if finding.remedy:
            table.add_row("", "", Text(f"-> {finding.remedy}", style="dim"))
    return table


def _checks_table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    for name in ("check", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("found", overflow="fold")
    return table


def summary_table(summary: Summary) -> Group:
    """The closing table: items, rejects, quality, index, seconds, and where the report is."""
    table = Table(title=_headline(summary), box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    table.add_column("what", style="dim")
    table.add_column("value")
    if summary.counts:
        counts = summary.counts
        table.add_row("items", f"{counts.embedded:,} ({counts.images:,} images, {counts.videos:,} videos)")
        table.add_row("rejects", f"{counts.rejected:,} of {counts.seen:,} samples")
    if summary.metrics:
        for row in _quality(summary.metrics):
            table.add_row(*row)
    if summary.index:
        built = summary.index
        table.add_row(
            f"index recall@{built.recall_k}", f"{built.recall:.3f} on text queries, target {built.recall_target:g}"
        )
        table.add_row("index", f"{built.key} {built.parameters}".rstrip())
        if built.levels:
            table.add_row("refined" if built.levels.refined else "coarse to fine", _levels(built.levels))
    if summary.seconds:
        parts = ", ".join(f"{stage} {value:.1f}" for stage, value in summary.seconds.items())
        table.add_row("seconds", f"{sum(summary.seconds.values()):.1f}: {parts}")
    if summary.report:
        table.add_row("report", Text(summary.report))
    return Group(table)


def _levels(levels: LevelsEntry) -> str:
    """Widths, the items kept after each, and what that saves."""
    if levels.refined:
        return f"whole vectors order the {levels.shortlist[0]:,} best; without them recall {levels.coarse_recall:.3f}"
    kept = ", ".join(f"{width} keeps {count:,}" for width, count in zip(levels.dims, levels.shortlist, strict=False))
    saved = levels.flat_macs / levels.macs
    return f"width {kept}, {levels.dims[-1]} orders them; {saved:.1f} times fewer multiply-adds"


def claims_table(claims: "Mapping[str, Claim]", found: "Mapping[str, Outcome]") -> Table:
    """Claims, their bounds, and what was found of each; beside a recorded finding, whether it lands in its range."""
    table = Table(box=None, pad_edge=False)
    for heading in ("claim", "says", "bound", "ours", "", "recorded"):
        table.add_column(heading)
    for name, claim in claims.items():
        if not found:
            table.add_row(name, claim.says, claim.bound, "", "", "")
        elif name in found:
            one = found[name].finding
            verdict = Text(one.verdict, style=_VERDICTS[one.verdict])
            table.add_row(name, claim.says, claim.bound, one.ours or one.note, verdict, _landed(found[name]))
    return table


def _landed(one: "Outcome") -> str:
    if one.recorded is None:
        return "this"
    values = ", ".join(f"{value:+.1f}" for value in one.finding.values)
    if one.bounds is None or one.lands is None:
        return f"stays ({one.recorded.ours}); it has no range to compare with"
    low, high = one.bounds
    return f"stays; {values} {'lands in' if one.lands else 'is OUTSIDE'} {low:+.1f} to {high:+.1f}"


def targets_table(found: Mapping[str, Any]) -> Table:
    """Recalls of a pair of checkpoints, and of the floor."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "texts", "R@1", "R@5", "R@10"):
        table.add_column(heading)
    whole = found["exhaustive"]
    rows = {"floor": found["floor"], "fast": found["fast"], "reranked": found["reranked"]}
    rows |= {"all pairs": whole["all_pairs"], "candidates of the same": whole["candidates"]}
    rows |= {f"{name}, fast": one["fast"] for name, one in found["others"].items()}
    for name, one in rows.items():
        table.add_row(name, f"{one['texts']:,}", *(f"{one[key]:.1f}" for key in ("r1", "r5", "r10")))
    return table


def _headline(summary: Summary) -> str:
    if summary.published is not None:
        return f"{summary.dataset}: generation {summary.published} is served"
    if summary.seconds:
        return f"{summary.dataset}: done; generation {summary.generation or 'none'} is served"
    return f"{summary.dataset}: nothing to do; generation {summary.generation or 'none'} is served"


def _quality(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of R@1/5/10, in per cent, fast and reranked."""
    figures = metrics.get("text_to_image")
    if not figures:
        return [("R@K", "not measured: no query is known to have a relevant item")]
    unseen = "; beta was fitted on others" if metrics["measured_on"] == "test" else ""
    rows = [("text to image", f"R@1 / 5 / 10, {metrics['measured']:,} queries{unseen}")]
    rows.append(("  fast", _recalls(figures["fast"])))
    if "reranked" in figures:
        gain = figures["gain"]["R@1"]
        change = f"R@1 {100 * gain['value']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        rows.append(("  reranked", f"{_recalls(figures['reranked'])}   {change}"))
    if metrics.get("image_to_text"):
        rows.append(("image to text, fast", _recalls(metrics["image_to_text"])))
    return rows


def _recalls(figures: dict[str, Any]) -> str:
    return " / ".join(f"{100 * figures[name]:.1f}" for name in ("R@1", "R@5", "R@10"))


def answers_table(text: str, answers: Sequence[Answer]) -> Table:
    """Ranked answers to one query."""
    title = Text(text, style="table.title")  # as it was asked: brackets are no markup
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name, justify in (("#", "right"), ("key", "left"), ("fast", "right"), ("slow", "right"), ("caption", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for answer in answers:
        slow = "" if answer.slow_score is None else f"{answer.slow_score:.2f}"
        caption = answer.captions[0] if answer.captions else ""
        table.add_row(str(answer.rank), Text(answer.key), f"{answer.fast_score:.3f}", slow, Text(caption))
    return table
