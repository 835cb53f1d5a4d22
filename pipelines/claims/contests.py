"""Claims about training: models trained with and without something, all else equal, then measured side by side."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from pipelines.claims.findings import Finding, difference, rounded, verdict
from pipelines.claims.ranks import depth_for_gap, hits, reranked
from pipelines.claims.trained import Trained

DEPTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 400, 1000)
"""K tried for FS3."""


@dataclass(frozen=True)
class Contest:
    """A claim that is the difference of two models.

    Attributes:
      ours, theirs: names of trainings, and what they are called in the finding.
      side: whose R@1, or "mR" of the fast side.
      holds: of the mean difference.
      note: what limits it.
    """

    ours: tuple[str, str]
    theirs: tuple[str, str]
    side: str
    holds: Callable[[float], bool]
    note: str = ""

    def decide(self, claim: str, on: Trained) -> Finding:
        """Trains both and compares; a bench may have other models for it."""
        (ours, our_name), (theirs, their_name), note = on.bench.sides.get(claim, (self.ours, self.theirs, self.note))
        if self.side == "mR":
            subjects, side = on.pair_subjects(ours), on.pair_recalls
        else:
            slow = self.side == "slow"
            subjects, side = on.subjects(ours, slow=slow), on.slow_hits if slow else on.fast_hits
        return difference(
            claim,
            side(ours),
            side(theirs),
            holds=self.holds,
            names=(our_name, their_name),
            seeds=on.seeds,
            subjects=subjects,
            note=note,
        )


def _above(least: float) -> Callable[[float], bool]:
    return lambda mean: mean > least


CONTESTS: dict[str, Contest] = {
    "FS2": Contest(("fs-distilled", "distilled"), ("fs-plain", "plain"), "fast", _above(0)),
    "FS6": Contest(("fs-cells", "two levels"), ("fs-coarse", "2 x 2 cells alone"), "slow", _above(0)),
    "FS7": Contest(("fs-slow", "both directions"), ("fs-forward", "forward"), "slow", lambda mean: mean >= 0),
    "VD2": Contest(
        ("vd-nce", "from pairs"),
        ("vd-scratch", "from scratch"),
        "mR",
        _above(0),
        "equal steps of the second stage; the first stage's are not counted",
    ),
    "VD4": Contest(("vd-nce", "InfoNCE"), ("vd-triplet", "shifted triplet"), "mR", _above(0)),
    "HV4": Contest(("hv-joint", "8 and 32 jointly"), ("hv-alone", "32 alone"), "fast", lambda mean: mean >= -0.5),
    "LP1": Contest(("lp-distilled", "distilled"), ("lp-base", "not"), "fast", _above(0)),
    "LP3": Contest(("lp-base", "mined"), ("lp-random", "random"), "slow", _above(0)),
    "LP5": Contest(("lp-base", "joint"), ("lp-cross", "cross alone"), "slow", lambda mean: mean >= -0.5),
    "LP7": Contest(("lp-distilled", "stop-gradient"), ("lp-pulled", "without"), "slow", _above(0)),
}


def fs3(on: Trained) -> Finding:
    """K that wins back 95 % of the gain, distilled and plain."""
    depths: dict[str, list[float]] = {"fs-distilled": [], "fs-plain": []}
    for name, found in depths.items():
        for seed in on.seeds:
            one = on.scores(name, seed, slow=True)
            depth = depth_for_gap(one.fast, one.slow, one.targets, DEPTHS)
            found.append(float("nan") if depth is None else depth)
    distilled, plain = (np.mean(found) for found in depths.values())
    if np.isnan(distilled + plain):
        return Finding("FS3", "not tested", note="slow gains nothing over fast in one of the models")
    values = [a - b for a, b in zip(depths["fs-distilled"], depths["fs-plain"], strict=True)]
    said = f"K = {distilled:.1f} distilled, {plain:.1f} plain"
    return Finding("FS3", verdict(bool(distilled <= plain)), said, rounded(values), tuple(on.seeds))


def vd5(on: Trained) -> Finding:
    """MR at three sizes of the batch."""
    sizes = sorted(on.bench.batches)
    found = {size: on.pair_recalls(on.bench.batches[size]) for size in sizes}
    means = [float(np.concatenate(one).mean()) for one in found.values()]
    least, largest = sizes[0], sizes[-1]
    one = difference(
        "VD5",
        found[largest],
        found[least],
        holds=lambda _: means == sorted(means),
        names=(f"B = {largest}", f"B = {least}"),
        seeds=on.seeds,
        subjects=on.pair_subjects(on.bench.batches[largest]),
        note="equal steps, so larger batches also saw more pictures",
    )
    said = ", ".join(f"{mean:.1f} at B = {size}" for size, mean in zip(sizes, means, strict=True))
    return replace(one, ours=f"{said}: {means[-1] - means[0]:+.1f}")


def rr4(on: Trained) -> Finding:
    """JOIN against SEP, both reranking 20."""
    found: dict[str, list[np.ndarray]] = {}
    for name in ("rr-join", "rr-sep"):
        scored = [on.scores(name, seed, slow=True) for seed in on.seeds]
        rank = [reranked(one.fast, one.slow, one.targets, 20) for one in scored]
        found[name] = [np.mean([hits(one, k) for k in (1, 5, 10)], axis=0) for one in rank]
    join, sep = (on.checkpoint(name, on.seeds[0]).parameters for name in found)
    one = difference(
        "RR4",
        found["rr-join"],
        found["rr-sep"],
        holds=lambda mean: mean >= -1 and join < 0.6 * sep,
        names=("JOIN", "SEP"),
        seeds=on.seeds,
        subjects=on.subjects("rr-join", slow=True),
        note="mean of R@1, R@5 and R@10, text to image",
    )
    return replace(one, ours=f"{one.ours}; {join / 1e6:.2f} and {sep / 1e6:.2f} million parameters")


def lp2(on: Trained) -> Finding:
    """R@1 of the cross encoder at three numbers of negatives."""
    found = {m: on.slow_hits(name) for m, name in ((1, "lp-m1"), (2, "lp-base"), (4, "lp-m4"))}
    means = {m: float(np.concatenate(one).mean()) for m, one in found.items()}
    one = difference(
        "LP2",
        found[4],
        found[1],
        holds=lambda gain: gain <= 0 or means[2] - means[1] > 0.5 * gain,
        names=("m = 4", "m = 1"),
        seeds=on.seeds,
        subjects=on.subjects("lp-m4", slow=True),
    )
    said = ", ".join(f"{mean:.1f} at m = {m}" for m, mean in means.items())
    return replace(one, ours=f"{said}: {means[4] - means[1]:+.1f}")


SPECIAL: dict[str, Callable[[Trained], Finding]] = {"FS3": fs3, "VD5": vd5, "RR4": rr4, "LP2": lp2}


def decide(claims: Iterable[str], on: Trained) -> dict[str, Finding]:
    """The findings of those of the claims that are about training."""
    found: dict[str, Finding] = {}
    for claim in claims:
        if claim in CONTESTS:
            found[claim] = CONTESTS[claim].decide(claim, on)
        elif claim in SPECIAL:
            found[claim] = SPECIAL[claim](on)
    return found
