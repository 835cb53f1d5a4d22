"""Claims on Flickr8k: every model is trained on train, chosen on dev and measured on the 1,000 photos of test.

All backbones of vision are frozen, and what they make of the photos is computed once for all trainings. A seed is that
of a training; the photos asked are the same, so queries of one photo are drawn together when intervals are made.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from encoders.base import PixelSpec
from pipelines.claims.bench import LOOPITR, Bench, Sides, Size, Training, stage
from pipelines.claims.gallery import Gallery
from pipelines.claims.photos import check, draw, patterns, read_split, read_test

SIZE, COMPARED, SQUARE = Size(1_000, 100), Size(500, 100), Size(200, 200)
"""Photos of test, and texts where all pairs are scored: by one model, by those of two trainings, and both ways."""

COMMON = (
    "model.vision=google/mobilenet_v2_1.0_224",
    "model.image_size=224",
    "model.resize=squash",
    "model.vision_layers=[11, 14, 15]",
    "model.max_frames=0",
    "model.visual_norm=batch",
    "data.cached_views=5",
    "data.crop_scale=0.4",
    "data.flip=true",
    "data.colour_jitter=0.0",
    "optimizer.vision_lr_factor=0",
    "precision=auto",
)
"""The same in all trainings, so that one file of features serves them: that of configs/train/flickr8k-*."""

STREAM = ("model.text_depth=2", "optimizer.warmup_steps=30")
"""Of the single streams: two layers of MiniLM; short, so soon in large steps."""

PAIRS = (*STREAM, "model.vision_side=2", "model.temperature=0.02", "optimizer.lr=5e-4", "losses.masked_words=1.0")
"""Of VLDeformer's first stage: 2 x 2 regions. Without masked words matching stays at chance for hundreds of steps."""

VECTORS = (*PAIRS, "optimizer.lr=3e-4", "losses.masked_words=0.5", "batch_size=128")
"""Of its second, where batches are compared (VD5)."""

CAPTIONER = "model.decoder_layers=1"
"""Of Thinking Fast and Slow: one layer a direction."""


def _slow(*settings: str) -> Training:
    return Training("flickr8k-fast-slow", 300, (CAPTIONER, stage("slow"), "batch_size=96", *settings))


def _fast(name: str) -> Training:
    shape = (CAPTIONER, stage(name), "batch_size=96", "losses.candidates=4")
    return Training("flickr8k-fast-slow", 100, shape, initial="fs-slow", slow_of="fs-slow")


def _decomposed(*settings: str) -> Training:
    return Training("flickr8k-vldeformer", 120, (*VECTORS, stage("decomposition"), *settings), "vd-pairs")


def _cooperative(*settings: str) -> Training:
    shape = (*STREAM, "model.vision_side=4", "losses.masked_words=0", "optimizer.lr=3e-4")
    few = ("batch_size=64", "losses.negative_choice=random")
    return Training("flickr8k-cooperative", 1_200, (*shape, *few, *settings))


def _levels(*settings: str) -> Training:
    return Training("flickr8k-hivlp", 300, ("batch_size=512", *settings))


def _joint(steps: int, initial: str | None, *settings: str) -> Training:
    shape = ("model.vision_side=0", "model.visual_width=128", "model.fusion_dropout=0.2")
    few = ("batch_size=128", "losses.match_rows=24", "losses.masked_words=0", "losses.distillation_start=0")
    both = (stage("joint"), "optimizer.lr=1e-3", "optimizer.warmup_steps=20", "validation.depth=20")
    last = (f"validation.every={steps}", "validation.best=sum_r1")  # compared after as many steps, not at its best
    return Training("flickr8k-loopitr-cpu", steps, (*shape, *few, *both, *last, *settings), initial)


TRAININGS: dict[str, Training] = {
    "fs-slow": _slow(),
    "fs-forward": _slow("model.directions=forward"),
    "fs-coarse": _slow("model.vision_side=1"),
    "fs-plain": _fast("fast_plain"),
    "fs-distilled": _fast("fast"),
    "vd-pairs": Training("flickr8k-vldeformer", 800, (*PAIRS, stage("interaction"), "batch_size=64")),
    "vd-nce": _decomposed(),
    "vd-triplet": _decomposed("losses.contrast_kind=triplet"),
    "vd-scratch": Training("flickr8k-vldeformer", 120, (*VECTORS, stage("scratch"))),
    "vd-b32": _decomposed("batch_size=32"),
    "vd-b64": _decomposed("batch_size=64"),
    "rr-join": _cooperative(),
    "rr-sep": _cooperative("model.share=none"),
    "hv-joint": _levels(),
    "hv-alone": _levels("model.dims=[512]"),
    "lp-start": _joint(400, None, "losses.distillation=0", "losses.negative_choice=random"),
    **{name: _joint(160, "lp-start", *settings) for name, settings in LOOPITR.items()},
}
"""By name; each is trained once a seed.

A cross encoder that starts with mined negatives stays at chance for hundreds of steps, so all of LoopITR's begin with
one that has learnt from random ones, and those of Retrieve Fast, Rerank Smart see no others.
"""

MAINS = {"FS": "fs-distilled", "VD": "vd-nce", "RR": "rr-join", "HV": "hv-joint", "LP": "lp-distilled"}

SIDES = {
    "FS6": Sides(
        ("fs-slow", "7 x 7 cells"),
        ("fs-coarse", "their mean"),
        "the finest map of a frozen backbone against one cell; the scenes' model has finer maps of its own",
    ),
    "HV4": Sides(("hv-joint", "32, 128 and 512 jointly"), ("hv-alone", "512 alone")),
}


def photo_bench(folder: Path, *, features: Path, settings: Sequence[str] = ()) -> Bench:
    """Flickr8k.

    Args:
      folder: of its shards.
      features: folder of what the frozen backbones make of the photos.
      settings: laid over every training: where the backbones are, for example.

    Raises:
      InputError: a split is not there.
    """
    check(folder)
    return Bench(
        name="flickr8k",
        option="--on flickr8k --shards FOLDER",
        galleries=f"the {SIZE.items:,} photos of Flickr8k's test split; where all pairs are scored with {SIZE.texts} "
        f"captions of as many photos, drawn by the seed (with {COMPARED.items} where two trainings are compared), else "
        "with all captions",
        measured=SIZE,
        trained=COMPARED,
        trainings=TRAININGS,
        mains=MAINS,
        sides=SIDES,
        batches={32: "vd-b32", 64: "vd-b64", 128: "vd-nce"},
        quick=(),
        draw=partial(_draw, folder),
        asked=lambda _seed, _size, spec: read_test(folder, spec).all_texts(),
        distractors=lambda _seed, _shown, count, spec: _train_photos(folder, count, spec),
        large=7_000,
        large_seeds=99,
        large_note="the others are the photos of the train split, whose captions are not asked",
        shards=(patterns(folder, "train"), patterns(folder, "dev")),
        common=(*COMMON, f"data.feature_folder={features}"),
        settings=tuple(settings),
        validations=4,
        queries=100,
        squares=SQUARE,
        nested=True,
    )


def _draw(folder: Path, seed: int, size: Size, spec: PixelSpec) -> Gallery:
    return draw(read_test(folder, spec), seed, size)


def _train_photos(folder: Path, count: int, spec: PixelSpec) -> torch.Tensor:
    return read_split(folder, "train", spec).pixels[: max(0, count)]
