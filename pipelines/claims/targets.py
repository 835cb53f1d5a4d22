"""How far the best models get on Flickr8k's test photos, and elsewhere: recall, what reranking costs, expert grades.

Letters: Q texts, N items, K candidates.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from encoders.backbones import build_backbone
from encoders.base import PixelSpec
from encoders.folding import fold_batch_norms
from encoders.pixels import normalise
from encoders.registry import load_dual, load_scorer, resolve
from encoders.towers import grid_features
from encoders.training.build import load_vision
from encoders.training.validate import recall as validated
from pipelines.claims import records
from pipelines.claims.expert import FILE, Graded, read_grades, spearman
from pipelines.claims.floor import Floor, fit_floor
from pipelines.claims.gallery import Gallery
from pipelines.claims.photos import SPLITS, Photos, check, read_captioned, read_split
from pipelines.claims.ranks import ranks, recall, reranked, shortlist
from pipelines.claims.scores import PAIRS_AT_ONCE, cache_items, encode_items, encode_texts, score_pairs
from schemas import query_logs
from schemas.commits import encode_json, publish_bytes
from schemas.configs import EncoderConfig
from schemas.errors import InputError, ModelError

logger = logging.getLogger(__name__)

CANDIDATES = 20
DEV_TEXTS = 1_000
"""Captions of dev that beta is fitted on."""

COMPARED = 20
"""Photos whose mean slow score is taken off a graded one."""

FRAMES = 4
"""Of a clip."""


def measure(
    encoder: str, scorer: str, folder: Path, *, texts: int, others: Mapping[str, str], seed: int = 1
) -> dict[str, Any]:
    """Everything the section "Targets" says, in the precision that the pipeline would choose here.

    Args:
      encoder, scorer: checkpoints trained here, the fast side and the slow side that reranks.
      folder: of Flickr8k's shards and expert grades.
      texts: captions scored against all photos.
      others: glob of captioned shards by name.
      seed: of the captions drawn.

    Raises:
      InputError: shards or grades that are not there.
      ModelError: a checkpoint cannot be loaded, or was not trained here.
    """
    check(folder)
    fast_side = load_dual(EncoderConfig(path=encoder), device="cpu")
    slow_side = load_scorer(EncoderConfig(path=scorer), device="cpu")
    splits: dict[str, Photos] = {split: read_split(folder, split, fast_side.pixels) for split in SPLITS}
    test = splits["test"]
    graded = read_grades(folder / FILE, test.keys, test.captions)
    logger.info("floor: features of %d photos", sum(len(one.keys) for one in splits.values()))
    see = partial(pooled, first_backbone(encoder), fast_side.pixels)
    floor = fit_floor(
        np.concatenate([see(splits[name].pixels) for name in ("train", "dev")]),
        [*splits["train"].captions, *splits["dev"].captions],
    )
    shown, seen = test.all_texts(), see(test.pixels)
    fast = fast_scores(fast_side, shown)
    beta = fit_beta(fast_side, slow_side, splits["dev"], _as_wanted(folder, "dev", splits["dev"], fast_side, slow_side))
    caches = cache_items(slow_side, _as_wanted(folder, "test", test, fast_side, slow_side))
    logger.info("reranking %d captions at K = %d, beta %.3g", len(shown.captions), CANDIDATES, beta)
    near = shortlist(fast, CANDIDATES)
    slow = np.full(fast.shape, -np.inf, np.float32)
    np.put_along_axis(slow, near, slow_of(slow_side, shown.captions, near, caches), 1)
    found: dict[str, Any] = {
        "encoder": _model(encoder),
        "scorer": _model(scorer),
        "photos": len(test.keys),
        "captions": len(shown.captions),
        "candidates": CANDIDATES,
        "beta": beta,
        "beta_from": f"{min(DEV_TEXTS, len(splits['dev'].all_texts().captions)):,} captions of dev",
        "fast": at(of_distinct(shown.captions, ranks(fast, shown.targets))),
        "reranked": at(of_distinct(shown.captions, reranked(fast, slow, shown.targets, CANDIDATES, beta=beta))),
        "exhaustive": _exhaustive(slow_side, shown, fast, caches, texts=texts, beta=beta, seed=seed),
        "spearman": _agreement(graded, fast_side, slow_side, test, caches, beta=beta)
        | {
            "floor": spearman((floor.texts(graded.captions) * floor.pictures(seen)[graded.items]).sum(1), graded.grades)
        },
        "floor": at(
            of_distinct(shown.captions, ranks(floor.texts(shown.captions) @ floor.pictures(seen).T, shown.targets))
        ),
        "others": {name: _elsewhere(fast_side, floor, see, pattern) for name, pattern in others.items()},
    }
    return found


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Keeps them as JSON, numbers to four places."""
    publish_bytes(encode_json(_rounded(found)), str(path))


def fast_scores(encoder: Any, shown: Gallery) -> np.ndarray:
    """Cosines float32 (Q, N)."""
    scores: np.ndarray = (
        encode_texts(encoder, shown.captions)["embedding"] @ encode_items(encoder, shown.pixels)["embedding"].T
    )
    return scores


def slow_of(scorer: Any, captions: Sequence[str], near: np.ndarray, caches: torch.Tensor) -> np.ndarray:
    """Slow scores float32 (Q, K) of the items int64 (Q, K) of each text; Q * K pair evaluations."""
    out = np.empty(near.shape, np.float32)
    order = np.argsort([len(text) for text in captions], kind="stable")  # little padding
    for some in np.array_split(order, max(1, near.size // PAIRS_AT_ONCE)):
        rows = near[some]
        texts = [captions[i] for i in some for _ in range(near.shape[1])]
        out[some] = scorer.score(texts, caches[torch.from_numpy(rows.ravel())]).reshape(rows.shape)
    return out


def fit_beta(encoder: Any, scorer: Any, dev: Photos, pixels: torch.Tensor) -> float:
    """The weight of the fast score with the best R@1 on dev, K candidates of up to `DEV_TEXTS` captions.

    Args:
      pixels: of dev, as the scorer wants them.
    """
    whole = dev.all_texts()
    count = len(whole.captions)
    some = np.unique(np.linspace(0, count - 1, min(DEV_TEXTS, count)).astype(int))
    captions = tuple(whole.captions[i] for i in some)
    asked = Gallery(whole.pixels, captions, whole.targets[some])
    fast = fast_scores(encoder, asked)
    near = shortlist(fast, min(CANDIDATES, fast.shape[1]))
    logger.info("beta: %d pairs of dev", near.size)
    return validated(fast, slow_of(scorer, captions, near, cache_items(scorer, pixels)), near, asked.targets).beta


def first_backbone(path: str) -> nn.Module:
    """The vision backbone that the training of a checkpoint began with: one that has learnt would lift the floor too.

    Raises:
      ModelError: the checkpoint was not trained here, or has no pretrained backbone.
    """
    named: str | None = path
    while named is not None and (record := resolve(EncoderConfig(path=named)) / "training.json").is_file():
        named = json.loads(record.read_text(encoding="utf-8"))["config"]["model"]["vision"]
    if named in (None, path):
        raise ModelError(f"{path}: the floor stands on the pretrained vision backbone of a checkpoint trained here")
    settings, weights = load_vision(named)
    backbone = build_backbone(settings)
    backbone.load_state_dict(weights)
    backbone.train(False)
    fold_batch_norms(backbone)
    return backbone


def pooled(backbone: nn.Module, spec: PixelSpec, pixels: torch.Tensor) -> np.ndarray:
    """The mean over cells, and frames, of what a vision backbone makes of items, float32 (N, C).

    Args:
      pixels: uint8 (N, F, H, W, 3).
    """
    parts = []
    with torch.inference_mode():
        for some in torch.split(pixels, max(1, 64 // pixels.shape[1])):
            flat = normalise(some.flatten(0, 1), spec, device=torch.device("cpu"), dtype=torch.float32)
            cells = grid_features(backbone, flat).float().mean(1)
            parts.append(cells.view(*some.shape[:2], -1).mean(1).numpy())
    return np.concatenate(parts)


def of_distinct(captions: Sequence[str], rank: np.ndarray) -> np.ndarray:
    """Ranks of the captions that a query log would tell apart, in order: of photos with the same one any is right.

    Args:
      rank: of each caption's own photo, int64 (Q,).
    """
    texts, place = np.unique([query_logs.normalise(caption) for caption in captions], return_inverse=True)
    best = np.full(len(texts), np.iinfo(np.int64).max)
    np.minimum.at(best, place, rank)
    return best


def at(rank: np.ndarray) -> dict[str, float]:
    """R@1/5/10 in percent, of how many texts."""
    return {**{f"r{k}": recall(rank, k) for k in (1, 5, 10)}, "texts": len(rank)}


def _exhaustive(
    scorer: Any, shown: Gallery, fast: np.ndarray, caches: torch.Tensor, *, texts: int, beta: float, seed: int
) -> dict[str, Any]:
    """All photos by the slow side against K candidates, of the same captions."""
    rng = np.random.default_rng([seed, 5])
    some = np.sort(rng.permutation(len(shown.captions))[:texts])
    captions, targets = [shown.captions[i] for i in some], shown.targets[some]
    logger.info("all pairs: %d captions x %d photos", len(captions), len(caches))
    before = scorer.pair_evaluations
    slow = score_pairs(scorer, captions, caches)
    spent = scorer.pair_evaluations - before
    whole = at(ranks(slow + np.float32(beta) * fast[some], targets))
    few = at(reranked(fast[some], slow, targets, CANDIDATES, beta=beta))
    return {
        "texts": len(captions),
        "seed": seed,
        "all_pairs": whole,
        "all_pairs_slow_alone": at(ranks(slow, targets)),
        "candidates": few,
        "difference": {name: few[name] - whole[name] for name in ("r1", "r5", "r10")},
        "pairs": spent,
        "fewer_pairs": spent / (CANDIDATES * len(captions)),
    }


def _agreement(
    graded: Graded, encoder: Any, scorer: Any, test: Photos, caches: torch.Tensor, *, beta: float
) -> dict[str, Any]:
    """Spearman's rho with the experts' mean grades, of every side.

    A slow score may say more of the caption than of the photo (a captioner's does); in `..._less_mean` it is less its
    mean over some photos drawn once for all, which ranks photos of a caption alike, and captions otherwise. What is
    left of a sum over words grows with the caption's length, so `slow_less_mean_a_word` is divided by their number.
    """
    captions = list(dict.fromkeys(graded.captions))
    place = {text: row for row, text in enumerate(captions)}
    rows = np.array([place[text] for text in graded.captions])
    logger.info("expert grades: %d pairs", len(rows))
    fast = fast_scores(encoder, Gallery(test.pixels, tuple(captions), np.zeros(len(captions), np.int64)))[
        rows, graded.items
    ]
    slow = slow_of(scorer, graded.captions, graded.items[:, None], caches)[:, 0]
    drawn = np.sort(np.random.default_rng(0).permutation(len(caches))[:COMPARED])
    means = slow_of(scorer, captions, np.tile(drawn, (len(captions), 1)), caches).mean(1)
    slow_scores = {"slow": slow, "fused": slow + beta * fast}
    less_mean = {f"{name}_less_mean": scores - means[rows] for name, scores in slow_scores.items()}
    words = np.array([len(caption.split()) for caption in graded.captions])
    scored = {"fast": fast, **slow_scores, **less_mean, "slow_less_mean_a_word": less_mean["slow_less_mean"] / words}
    return {
        "pairs": len(rows),
        "left_out": graded.left_out,
        **{name: spearman(one, graded.grades) for name, one in scored.items()},
    }


def _elsewhere(encoder: Any, floor: Floor, see: Callable[[torch.Tensor], np.ndarray], pattern: str) -> dict[str, Any]:
    """Recall on other captioned pictures or clips, all captions asked."""
    shown = read_captioned((pattern,), encoder.pixels, frames=FRAMES).all_texts()
    logger.info("%s: %d items, %d captions", pattern, len(shown.pixels), len(shown.captions))
    fast = at(ranks(fast_scores(encoder, shown), shown.targets))
    by_floor = floor.texts(shown.captions) @ floor.pictures(see(shown.pixels)).T
    return {"items": len(shown.pixels), "fast": fast, "floor": at(ranks(by_floor, shown.targets))}


def _as_wanted(folder: Path, split: Any, shown: Photos, encoder: Any, scorer: Any) -> torch.Tensor:
    """The photos of a split as the scorer wants them."""
    if scorer.pixels == encoder.pixels:
        return shown.pixels
    other = read_split(folder, split, scorer.pixels)
    if other.keys != shown.keys:
        raise InputError(f"{split}: the encoder and the scorer do not read the same photos; use checkpoints that do")
    return other.pixels


def _model(path: str) -> dict[str, Any]:
    """What is kept of a checkpoint: its config and how it was trained."""
    record = resolve(EncoderConfig(path=path)) / "training.json"
    if not record.is_file():
        raise ModelError(f"{path}: expected a checkpoint trained here, with training.json; found none")
    read = json.loads(record.read_text(encoding="utf-8"))
    kept = ("config", "seed", "steps", "best_step", "seconds", "device", "versions", "metrics", "parameters")
    return {"name": read["config"]["name"], **records.without_folders({key: read[key] for key in kept})}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
