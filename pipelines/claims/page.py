"""docs/claims.md, made from the findings."""

from collections.abc import Mapping
from typing import Any

from pipelines.claims.findings import Finding, not_tested
from pipelines.claims.papers import CLAIMS, SYSTEMS, Claim

HEAD = """# What the papers claim, and what we find

Made by `fastslow claims{quick}`; do not edit. Every row is our own model, trained by our own code on generated scenes
(`configs/train/demo-*.yaml`), measured on pictures whose captions no training draws: {galleries}.
R@k are in percent, text to image; differences are in points: the mean over seeds [least, most], then the
95 % interval of a paired bootstrap over the queries of all seeds, where there are queries. A claim holds or not by its
bound alone; where the interval contains the bound, the queries cannot tell. "No figure seen": the paper claims it, but
its number was not to be had. One claim again, with other seeds: `fastslow claims --only FS4 --seeds 7 --seeds 8`.

**{holds} of {total} hold, {fails} do not, {untested} are not tested.**
"""


def render(found: Mapping[str, Finding], made: Mapping[str, Any]) -> str:
    """The page, Markdown."""
    every = [found.get(name) or not_tested(name, "not run yet") for name in CLAIMS]
    counts = {verdict: sum(one.verdict == verdict for one in every) for verdict in ("holds", "does not hold")}
    lines = [
        HEAD.format(
            quick=" --quick" if made.get("quick") else "",
            galleries=made.get("galleries", ""),
            holds=counts["holds"],
            fails=counts["does not hold"],
            untested=len(every) - sum(counts.values()),
            total=len(every),
        )
    ]
    for letters, (title, model) in SYSTEMS.items():
        lines += [f"## {title}", "", f"Model: `{model}`.", ""]
        lines += ["| claim | paper | bound | ours | |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(CLAIMS[one.claim], one) for one in every if one.claim.startswith(letters)]
        lines.append("")
    if made.get("machine"):
        lines += ["Made on: " + ", ".join(f"{name} {value}" for name, value in made["machine"].items()) + ".", ""]
    return "\n".join(lines)


def _row(claim: Claim, found: Finding) -> str:
    ours = found.ours
    if len(found.values) > 1:
        ours += f" [{min(found.values):+.1f}, {max(found.values):+.1f}]"
    if found.interval is not None:
        ours += f", interval {found.interval[0]:+.1f} to {found.interval[1]:+.1f}"
    if found.seeds:
        ours += f" (seed{'s' if len(found.seeds) > 1 else ''} {', '.join(map(str, found.seeds))})"
    if found.note:
        ours = f"{ours}. {found.note[0].upper()}{found.note[1:]}" if ours else found.note[0].upper() + found.note[1:]
    verdict = f"**{found.verdict}**"
    return " | ".join((f"| **{claim.id}** {claim.says}", claim.paper, claim.bound, ours, verdict)) + " |"
