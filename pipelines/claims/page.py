"""docs/claims.md, made from the findings, the records of the trainings and the targets."""

from collections.abc import Mapping
from typing import Any

from pipelines.claims import targets_page
from pipelines.claims.findings import Finding, Made, expected, not_tested
from pipelines.claims.papers import CLAIMS, SYSTEMS, Claim

HEAD = """# What the papers claim, and what we find

Made by `fastslow claims` (`--page` writes it again from the JSON files beside it); do not edit. Every row is our own
model, trained by our own code:

{benches}

R@k are in percent, text to image; differences are in points: the mean over seeds [least, most], then the
95 % interval of a paired bootstrap over the queries of all seeds, where there are queries (those of one photo are drawn
together). A claim holds or not by its bound alone; where the interval contains the bound, the queries cannot tell.
"Another seed" is where the value of one more seed is expected: the mean and spread of the seeds, by Student's t
(mean +- t s sqrt(1 + 1/n)), never less than least and most and one query beyond them. "No figure seen": the paper
claims it, but its number was not to be had. A run with other seeds than the recorded ones says whether it lands there
and leaves the record as it is; `--again` replaces it. FOLDER is that of Flickr8k's shards.
"""

TITLES = {"scenes": "scenes", "flickr8k": "photos"}
MODELS = {"scenes": "`configs/train/demo-*.yaml`", "flickr8k": "`configs/train/flickr8k-*.yaml`"}


def render(found: Mapping[str, Made], trainings: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Any]) -> str:
    """The page, Markdown.

    Args:
      found: by bench.
      trainings: records by `<training>-<seed>`, by bench.
      targets: see `pipelines.claims.targets`; empty: the section is left out.
    """
    benches = {name: found.get(name, Made()) for name in TITLES}
    lines = [HEAD.format(benches="\n".join(_bench(name, one) for name, one in benches.items()))]
    for letters, (title, model) in SYSTEMS.items():
        lines += [f"## {title}", "", f"Model on scenes: `{model}`.", ""]
        lines += ["| claim | paper | bound | on | ours | another seed | | command |", f"|{' --- |' * 8}"]
        for claim in CLAIMS.values():
            if claim.system == letters:
                lines += _rows(claim, {name: one.findings.get(claim.id) for name, one in benches.items()})
        lines.append("")
    for name, some in trainings.items():
        if some:
            lines += _trainings(name, some)
    if targets:
        lines += targets_page.render(targets)
    return "\n".join(lines)


def _bench(name: str, one: Made) -> str:
    """A line of the head: what was measured on, how many claims hold there, and where it was made."""
    every = [one.findings.get(claim) or not_tested(claim, "") for claim in CLAIMS]
    holds, fails = (sum(found.verdict == verdict for found in every) for verdict in ("holds", "does not hold"))
    rest = len(every) - holds - fails
    counts = f"{holds} of {len(every)} hold, {fails} do not, {rest} {'is' if rest == 1 else 'are'} not tested"
    on = f" on {one.made['galleries']}, unless a row says else;" if one.made.get("galleries") else ""
    made = ", ".join(f"{key} {value}" for key, value in one.made.get("machine", {}).items())
    quick = "; with `--quick`" if one.made.get("quick") else ""
    where = f" Made on: {made}{quick}." if made else ""
    return f"- {TITLES[name]} ({MODELS[name]}):{on} **{counts}.**{where}"


def _rows(claim: Claim, found: Mapping[str, Finding | None]) -> list[str]:
    """A row for each bench; the claim is said in the first."""
    rows, said = [], [f"**{claim.id}** {claim.says}", claim.paper, claim.bound]
    for name, one in found.items():
        shown = one or not_tested(claim.id, "not run yet")
        cells = [*said, TITLES[name], _ours(shown), _another(shown), f"**{shown.verdict}**"]
        rows.append("| " + " | ".join([*cells, f"`{shown.command}`" if shown.command else ""]) + " |")
        said = ["", "", ""]
    return rows


def _ours(found: Finding) -> str:
    ours = found.ours
    if len(found.values) > 1:
        ours += f" [{min(found.values):+.1f}, {max(found.values):+.1f}]"
    if found.interval is not None:
        ours += f", interval {found.interval[0]:+.1f} to {found.interval[1]:+.1f}"
    if found.seeds:
        ours += f" (seed{'s' if len(found.seeds) > 1 else ''} {', '.join(map(str, found.seeds))})"
    if not found.note:
        return ours
    note = found.note[0].upper() + found.note[1:]
    return f"{ours}. {note}" if ours else note


def _another(found: Finding) -> str:
    bounds = expected(found)
    return "" if bounds is None else f"{bounds[0]:+.1f} to {bounds[1]:+.1f}"


def _trainings(name: str, some: Mapping[str, Any]) -> list[str]:
    """What was trained on a bench, from the records."""
    lines = [
        f"## Trainings on {TITLES[name]}",
        "",
        f"One line a training and seed; all settings: `claims/{name}/`.",
        "",
    ]
    lines += ["| training | config | steps, best | seconds | device | fast R@1 dev | test | slow R@1 test |"]
    lines.append(f"|{' --- |' * 8}")
    for training, record in some.items():
        test = record.get("test", {})
        reached = [f"{test[key]:.1f}" if key in test else "" for key in ("fast_r1", "slow_r1")]
        cells = [training, f"`{record['config']['name']}`", f"{record['steps']:,}, {record['best_step']:,}"]
        cells += [f"{record['seconds']:,.0f}", record["device"], f"{record['metrics']['fast_r1']:.1f}", *reached]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
