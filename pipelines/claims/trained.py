"""Claims about training: models trained with and without something, all else equal, then measured side by side.

Trainings are of the demo's configs, shortened; each is a checkpoint folder, found again when the claims are run again.
The quick ones start from what the shipped VLDeformer learnt of pairs and take minutes together; the rest hours.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.claims import gallery
from pipelines.claims.findings import Finding, difference, rounded
from pipelines.claims.measured import verdict
from pipelines.claims.ranks import depth_for_gap, hits, mean_recall, ranks
from pipelines.claims.scores import Checkpoint, Scores, encode_items, open_checkpoint, score_all

ITEMS = 400
TEXTS = 200

DEPTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 400)
"""K tried for FS3."""

ALL_THINGS = ("data.curriculum=[{from_step: 0, objects: 4}]", "data.video_share=0")
WARM = "optimizer.warmup_steps=20"
SHORTEST = 100
"""Steps of the quick trainings."""

SHORT = (
    "data.curriculum=[{from_step: 0, objects: 1}, {from_step: 100, objects: 2}, {from_step: 1200, objects: 4}]",
    "data.video_share=0",
)


@dataclass(frozen=True)
class Training:
    """One model.

    Attributes:
      config: name in configs/train.
      steps: of the optimizer.
      settings: laid over the config.
      initial: name of the training it begins from, or `builtin:<name>`; None: nothing, whatever the config says.
    """

    config: str
    steps: int
    settings: tuple[str, ...] = ()
    initial: str | None = None


def _stage(name: str) -> str:
    return f"stages=[{{name: {name}, from_step: 0}}]"


def _decomposed(*settings: str, steps: int = SHORTEST) -> Training:
    return Training(
        "demo-vldeformer",
        steps,
        (_stage("decomposition"), *ALL_THINGS, WARM, *settings),
        initial="builtin:demo-vldeformer",
    )


def _joint(*settings: str) -> Training:
    return Training("demo-loopitr", 2400, (*SHORT, *settings))


TRAININGS: dict[str, Training] = {
    "vd-nce": _decomposed(),
    "vd-triplet": _decomposed("losses.contrast_kind=triplet"),
    "vd-scratch": Training("demo-vldeformer", SHORTEST, (_stage("scratch"), *ALL_THINGS, WARM)),
    "vd-b16": _decomposed("batch_size=16"),
    "vd-b32": _decomposed("batch_size=32"),
    "fs-slow": Training("demo-fast-slow", 2400, (_stage("slow"), *SHORT)),
    "fs-forward": Training("demo-fast-slow", 2400, (_stage("slow"), *SHORT, "model.directions=forward")),
    "fs-cells": Training("demo-fast-slow", 2400, (_stage("slow"), *SHORT, "model.grid=2")),
    "fs-coarse": Training(
        "demo-fast-slow", 2400, (_stage("slow"), *SHORT, "model.grid=2", "model.decoder_levels=[0, 0]")
    ),
    "fs-plain": Training("demo-fast-slow", 1600, (_stage("fast_plain"), *SHORT), initial="fs-slow"),
    "fs-distilled": Training("demo-fast-slow", 1600, (_stage("fast"), *SHORT), initial="fs-slow"),
    "rr-join": Training("demo-cooperative", 3600, (*SHORT,)),
    "rr-sep": Training("demo-cooperative", 3600, (*SHORT, "model.share=none")),
    "hv-joint": Training("demo-hivlp", 2400, SHORT),
    "hv-alone": Training("demo-hivlp", 2400, (*SHORT, "model.dims=[32]")),
    "lp-base": _joint("losses.distillation=0"),
    "lp-distilled": _joint(),
    "lp-m1": _joint("losses.distillation=0", "losses.negatives=1"),
    "lp-m4": _joint("losses.distillation=0", "losses.negatives=4"),
    "lp-random": _joint("losses.distillation=0", "losses.negative_choice=random"),
    "lp-cross": _joint("losses.distillation=0", "losses.contrast=0"),
    "lp-pulled": _joint("losses.stop_gradient=false"),
}
"""By name; each is trained once a seed."""


@dataclass
class Trained:
    """Trains what is asked for, and measures it; what was trained before is taken from its folder.

    Attributes:
      folder: of the checkpoints.
      seeds: of the trainings, and of the galleries they are measured on.
      tell: told what is being done.
    """

    folder: Path
    seeds: Sequence[int]
    tell: Callable[[str], None] = field(default=lambda _: None)
    _scores: dict[tuple[str, int, bool], Scores] = field(default_factory=dict)

    def checkpoint(self, name: str, seed: int) -> Checkpoint:
        """A training's result."""
        return open_checkpoint(str(self.train(name, seed)))

    def train(self, name: str, seed: int) -> Path:
        """Trains unless it is there; returns the folder."""
        from encoders.training.loop import Listener
        from pipelines import training_job

        one, out = TRAININGS[name], self.folder / f"{name}-{seed}"
        settings = [*one.settings, f"steps={one.steps}", f"seed={seed}", f"validation.every={one.steps}"]
        settings.append("validation.max_queries=32")  # nothing is chosen by it: the last step is the only one looked at
        begin = self.train(one.initial, seed) if one.initial in TRAININGS else one.initial or "null"
        settings.append(f"initial={begin}")
        if not (out / "training.json").is_file():
            self.tell(f"training {name}, seed {seed}: {one.steps:,} steps of {one.config}")
        training_job.run(one.config, out=str(out), settings=settings, device="cpu", listener=Listener())
        return out

    def scores(self, name: str, seed: int, *, slow: bool) -> Scores:
        """What a training's model says of a gallery of its own seed; without `slow`, of the vectors alone."""
        key = (name, seed, slow)
        if key not in self._scores:
            model = self.checkpoint(name, seed)
            shown = gallery.draw(seed, images=ITEMS, texts=TEXTS, size=model.size)
            if slow:
                self._scores[key] = score_all(model, shown)
            else:
                texts = model.encoder.encode_text(shown.captions)
                nothing = np.zeros((TEXTS, ITEMS), np.float32)
                self._scores[key] = Scores(texts, encode_items(model.encoder, shown.pixels), nothing, {})
        return self._scores[key]

    def fast_hits(self, name: str) -> list[np.ndarray]:
        """At rank 1, of the fast side, by seed."""
        found = (self.scores(name, seed, slow=False) for seed in self.seeds)
        return [hits(ranks(one.fast, one.targets)) for one in found]

    def slow_hits(self, name: str) -> list[np.ndarray]:
        """At rank 1 of all pairs, of the slow side, by seed."""
        found = (self.scores(name, seed, slow=True) for seed in self.seeds)
        return [hits(ranks(one.slow, one.targets)) for one in found]

    def mean_recalls(self, name: str) -> list[float]:
        """MR of the fast side over the texts and their items, by seed."""
        return [mean_recall(self.scores(name, seed, slow=False).among(TEXTS).fast) for seed in self.seeds]


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
        """Trains both and compares."""
        (ours, our_name), (theirs, their_name) = self.ours, self.theirs
        if self.side == "mR":
            first, second = on.mean_recalls(ours), on.mean_recalls(theirs)
            values = [a - b for a, b in zip(first, second, strict=True)]
            mean = float(np.mean(values))
            said = f"{our_name} {np.mean(first):.1f}, {their_name} {np.mean(second):.1f}: {mean:+.1f}"
            return Finding(claim, verdict(self.holds(mean)), said, rounded(values), tuple(on.seeds), note=self.note)
        side = on.fast_hits if self.side == "fast" else on.slow_hits
        return difference(
            claim,
            side(ours),
            side(theirs),
            holds=self.holds,
            names=(our_name, their_name),
            seeds=on.seeds,
            note=self.note,
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
    sizes = {16: "vd-b16", 32: "vd-b32", 64: "vd-nce"}
    found = {size: on.mean_recalls(name) for size, name in sizes.items()}
    means = [float(np.mean(one)) for one in found.values()]
    said = ", ".join(f"{mean:.1f} at B = {size}" for size, mean in zip(sizes, means, strict=True))
    values = [a - b for a, b in zip(found[64], found[16], strict=True)]
    note = "equal steps, so larger batches also saw more pictures"
    return Finding("VD5", verdict(means == sorted(means)), said, rounded(values), tuple(on.seeds), note=note)


def rr4(on: Trained) -> Finding:
    """JOIN against SEP, both reranking 20."""
    from pipelines.claims.ranks import recall, reranked

    found: dict[str, list[float]] = {}
    for name in ("rr-join", "rr-sep"):
        scored = [on.scores(name, seed, slow=True) for seed in on.seeds]
        found[name] = [
            float(np.mean([recall(reranked(one.fast, one.slow, one.targets, 20), k) for k in (1, 5, 10)]))
            for one in scored
        ]
    join, sep = (on.checkpoint(name, on.seeds[0]).parameters for name in found)
    values = [a - b for a, b in zip(found["rr-join"], found["rr-sep"], strict=True)]
    mean = float(np.mean(values))
    said = f"JOIN {np.mean(found['rr-join']):.1f}, SEP {np.mean(found['rr-sep']):.1f}: {mean:+.1f}; "
    said += f"{join / 1e6:.2f} and {sep / 1e6:.2f} million parameters"
    note = "mean of R@1, R@5 and R@10, text to image"
    holds = mean >= -1 and join < 0.6 * sep
    return Finding("RR4", verdict(holds), said, rounded(values), tuple(on.seeds), note=note)


def lp2(on: Trained) -> Finding:
    """R@1 of the cross encoder at three numbers of negatives."""
    means = {m: float(np.mean(on.slow_hits(name))) for m, name in ((1, "lp-m1"), (2, "lp-base"), (4, "lp-m4"))}
    said = ", ".join(f"{mean:.1f} at m = {m}" for m, mean in means.items())
    gain = means[4] - means[1]
    holds = gain <= 0 or means[2] - means[1] > 0.5 * gain
    values = [float(a.mean() - b.mean()) for a, b in zip(on.slow_hits("lp-m4"), on.slow_hits("lp-m1"), strict=True)]
    return Finding("LP2", verdict(holds), said, rounded(values), tuple(on.seeds))


SPECIAL: dict[str, Callable[[Trained], Finding]] = {"FS3": fs3, "VD5": vd5, "RR4": rr4, "LP2": lp2}

QUICK = ("VD2", "VD4", "VD5")
"""Claims whose trainings take minutes."""


def decide(claims: Iterable[str], on: Trained) -> dict[str, Finding]:
    """The findings of those of the claims that are about training."""
    found: dict[str, Finding] = {}
    for claim in claims:
        if claim in CONTESTS:
            found[claim] = CONTESTS[claim].decide(claim, on)
        elif claim in SPECIAL:
            found[claim] = SPECIAL[claim](on)
    return found
