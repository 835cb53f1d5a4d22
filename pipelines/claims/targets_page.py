"""The section of docs/claims.md on how far the best models get, from targets.json."""

from collections.abc import Mapping
from typing import Any


def render(found: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown.

    Args:
      found: as `pipelines.claims.targets.measure` gives it.
    """
    whole, rho, depth = found["exhaustive"], found["spearman"], found["candidates"]
    lines = [
        "## Targets on Flickr8k",
        "",
        f"Fast side: `configs/train/{found['encoder']['name']}.yaml`; slow side: "
        f"`configs/train/{found['scorer']['name']}.yaml`; {found['photos']:,} photos of test, {found['captions']:,} "
        f"captions, {found['fast']['texts']:,} of them different; beta {found['beta']:.3g}, "
        f"fitted on {found['beta_from']}. The floor is a linear CCA of the pooled features of the vision backbone, as "
        "it was before any training here, and TF-IDF of captions, fitted on train and dev.",
        "",
        "| | texts | R@1 | R@5 | R@10 | Spearman with experts |",
        f"|{' --- |' * 6}",
        _row("floor: linear CCA", found["floor"], rho["floor"]),
        _row("fast", found["fast"], rho["fast"]),
        _row(f"reranked, K = {depth}", found["reranked"], rho["fused"]),
        _row(f"the same captions as all pairs, K = {depth}", whole["candidates"]),
        _row("all pairs by slow + beta fast", whole["all_pairs"]),
        _row("all pairs by slow alone", whole["all_pairs_slow_alone"], rho["slow"]),
        "",
        f"{depth} candidates against all {found['photos']:,} photos, {whole['texts']:,} captions: R@1 "
        f"{whole['difference']['r1']:+.1f}, R@5 {whole['difference']['r5']:+.1f}, R@10 "
        f"{whole['difference']['r10']:+.1f} points, with {whole['fewer_pairs']:.0f} times fewer pair evaluations.",
        "",
        f"Spearman: scores and the mean of three grades over {rho['pairs']:,} graded pairs ({rho['left_out']:,} are of "
        "photos or captions that are not there). A captioner's score has in it how likely the caption is of any photo, "
        f"and how long it is; less its mean over a few photos slow alone has {rho['slow_less_mean']:.2f}, that a word "
        f"{rho['slow_less_mean_a_word']:.2f}, slow + beta fast less the mean {rho['fused_less_mean']:.2f}.",
        "",
    ]
    if not found["others"]:
        return lines
    lines += ["Elsewhere, with nothing trained there (fast side alone):", ""]
    lines += ["| | items | texts | R@1 | R@5 | R@10 | floor R@1 | R@5 | R@10 |", f"|{' --- |' * 9}"]
    for name, one in found["others"].items():
        cells = [name, f"{one['items']:,}", f"{one['fast']['texts']:,}"]
        cells += [f"{one[side][key]:.1f}" for side in ("fast", "floor") for key in ("r1", "r5", "r10")]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _row(name: str, recalls: Mapping[str, float], rho: float | None = None) -> str:
    cells = [name, f"{recalls['texts']:,.0f}", *(f"{recalls[key]:.1f}" for key in ("r1", "r5", "r10"))]
    return "| " + " | ".join([*cells, "" if rho is None else f"{rho:.2f}"]) + " |"
