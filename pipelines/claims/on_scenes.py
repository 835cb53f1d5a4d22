"""Claims on generated scenes: galleries of held-out captions, the demo's models, and its trainings made shorter.

The quick trainings start from what the shipped VLDeformer learnt of pairs and take minutes together; the rest hours.
"""

import torch

from encoders.base import PixelSpec
from pipelines.claims import gallery
from pipelines.claims.bench import LOOPITR, Bench, Size, Training, stage
from pipelines.claims.gallery import Gallery
from pipelines.claims.papers import SYSTEMS

MEASURED = Size(1_000, 80)
TRAINED = Size(400, 200)
LARGE = 100_000

ALL_THINGS = ("data.curriculum=[{from_step: 0, objects: 4}]", "data.video_share=0")
WARM = "optimizer.warmup_steps=20"
SHORTEST = 100
"""Steps of the quick trainings."""

SHORT = (
    "data.curriculum=[{from_step: 0, objects: 1}, {from_step: 100, objects: 2}, {from_step: 1200, objects: 4}]",
    "data.video_share=0",
)


def _decomposed(*settings: str, steps: int = SHORTEST) -> Training:
    return Training(
        "demo-vldeformer",
        steps,
        (stage("decomposition"), *ALL_THINGS, WARM, *settings),
        initial="builtin:demo-vldeformer",
    )


def _joint(*settings: str) -> Training:
    return Training("demo-loopitr", 2400, (*SHORT, *settings))


TRAININGS: dict[str, Training] = {
    "vd-nce": _decomposed(),
    "vd-triplet": _decomposed("losses.contrast_kind=triplet"),
    "vd-scratch": Training("demo-vldeformer", SHORTEST, (stage("scratch"), *ALL_THINGS, WARM)),
    "vd-b16": _decomposed("batch_size=16"),
    "vd-b32": _decomposed("batch_size=32"),
    "fs-slow": Training("demo-fast-slow", 2400, (stage("slow"), *SHORT)),
    "fs-forward": Training("demo-fast-slow", 2400, (stage("slow"), *SHORT, "model.directions=forward")),
    "fs-cells": Training("demo-fast-slow", 2400, (stage("slow"), *SHORT, "model.grid=2")),
    "fs-coarse": Training(
        "demo-fast-slow", 2400, (stage("slow"), *SHORT, "model.grid=2", "model.decoder_levels=[0, 0]")
    ),
    "fs-plain": Training("demo-fast-slow", 1600, (stage("fast_plain"), *SHORT), initial="fs-slow"),
    "fs-distilled": Training("demo-fast-slow", 1600, (stage("fast"), *SHORT), initial="fs-slow"),
    "rr-join": Training("demo-cooperative", 3600, (*SHORT,)),
    "rr-sep": Training("demo-cooperative", 3600, (*SHORT, "model.share=none")),
    "hv-joint": Training("demo-hivlp", 2400, SHORT),
    "hv-alone": Training("demo-hivlp", 2400, (*SHORT, "model.dims=[32]")),
    **{name: _joint(*settings) for name, settings in LOOPITR.items()},
}
"""By name; each is trained once a seed."""


QUICK = ("VD2", "VD4", "VD5")
"""Claims whose trainings take minutes."""


def scenes_bench() -> Bench:
    """The scenes."""
    return Bench(
        name="scenes",
        option="",
        galleries=f"galleries of {MEASURED.items:,} scenes with {MEASURED.texts} texts, one a seed",
        measured=MEASURED,
        trained=TRAINED,
        trainings=TRAININGS,
        mains={letters: f"builtin:{model}" for letters, (_, model) in SYSTEMS.items()},
        sides={},
        batches={16: "vd-b16", 32: "vd-b32", 64: "vd-nce"},
        quick=QUICK,
        draw=_draw,
        asked=_draw,
        distractors=_distractors,
        large=LARGE,
        large_seeds=1,
        large_note="the others are scenes of which none of the texts is true",
    )


def _draw(seed: int, size: Size, spec: PixelSpec) -> Gallery:
    return gallery.draw(seed, images=size.items, texts=size.texts, size=spec.width)


def _distractors(seed: int, shown: Gallery, count: int, spec: PixelSpec) -> torch.Tensor:
    return gallery.distractors(seed, images=count, size=spec.width, said=frozenset(shown.captions))
