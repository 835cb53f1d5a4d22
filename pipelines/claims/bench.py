"""What claims are measured on: how pictures and captions are drawn, and which trainings are compared on them.

There are two: generated scenes (`on_scenes`) and the photos of Flickr8k (`on_photos`). How a claim is decided does not
depend on which (`measured`, `contests`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from encoders.base import PixelSpec
from pipelines.claims.gallery import Gallery


@dataclass(frozen=True)
class Training:
    """One model.

    Attributes:
      config: name in configs/train.
      steps: of the optimizer.
      settings: laid over the config.
      initial: name of the training it begins from, or `builtin:<name>`; None: nothing, whatever the config says.
      slow_of: name of the training whose slow side it keeps frozen: pairs are scored once for both.
    """

    config: str
    steps: int
    settings: tuple[str, ...] = ()
    initial: str | None = None
    slow_of: str | None = None


class Sides(NamedTuple):
    """The two models of a claim: training and what it is called in the finding; and what limits the comparison."""

    ours: tuple[str, str]
    theirs: tuple[str, str]
    note: str = ""


class Size(NamedTuple):
    """N items and Q texts of a gallery, each text of an item of its own."""

    items: int
    texts: int


@dataclass(frozen=True)
class Bench:
    """Pictures, captions and trainings.

    Attributes:
      name: of the bench, and of its folder of records.
      option: of the command line that chooses it; empty: it is the usual one.
      galleries: what is measured on, in words.
      measured: size where one model answers.
      trained: size where models of two trainings are compared.
      trainings: by name; each is trained once a seed.
      mains: letters of a system -> the training, or `builtin:<name>`, that answers what one model can answer.
      sides: of claims about two trainings, where they are others than those of the scenes.
      batches: size of the batch -> training, of VD5; the largest last.
      quick: claims whose trainings take minutes.
      draw: of (seed, size, how the model wants its pictures): a gallery to score all pairs of.
      squares: size where one model answers of as many texts as items (VD1, VD3); None: that of `measured`.
      nested: of a seed, the first items of a gallery and their texts are the gallery of that size.
      asked: of (seed, size, ...): a gallery for the fast side alone, where more texts cost nothing.
      distractors: of (seed, gallery, how many at most, ...): more pictures uint8 (M, 1, H, W, 3) that no text is of.
      large: items of HV1, distractors included, at most.
      large_seeds: galleries of HV1 at most.
      large_note: what the distractors are.
      shards: to train on and to validate on; two empty ones for a config that needs none.
      common: laid over every config, before the training's own settings.
      settings: laid over every training, after its own.
      validations: of a training, evenly over its steps; the best is kept.
      queries: captions a validation asks.
    """

    name: str
    option: str
    galleries: str
    measured: Size
    trained: Size
    trainings: Mapping[str, Training]
    mains: Mapping[str, str]
    sides: Mapping[str, Sides]
    batches: Mapping[int, str]
    quick: Sequence[str]
    draw: Callable[[int, Size, PixelSpec], Gallery]
    asked: Callable[[int, Size, PixelSpec], Gallery]
    distractors: Callable[[int, Gallery, int, PixelSpec], torch.Tensor]
    large: int
    large_seeds: int
    large_note: str
    shards: tuple[Sequence[str], Sequence[str]] = ((), ())
    common: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    validations: int = 1
    queries: int = 32
    squares: Size | None = None
    nested: bool = False


LOOPITR = {
    "lp-base": ("losses.distillation=0",),
    "lp-distilled": (),
    "lp-m1": ("losses.distillation=0", "losses.negatives=1"),
    "lp-m4": ("losses.distillation=0", "losses.negatives=4"),
    "lp-random": ("losses.distillation=0", "losses.negative_choice=random"),
    "lp-cross": ("losses.distillation=0", "losses.contrast=0"),
    "lp-pulled": ("losses.stop_gradient=false",),
}
"""Settings of LoopITR's trainings by name, on either bench."""


def stage(name: str) -> str:
    """The setting of a training that has one stage."""
    return f"stages=[{{name: {name}, from_step: 0}}]"
