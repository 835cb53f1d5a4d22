"""Which dtype a model runs in here: bfloat16 where the machine has it and vectors agree with float32.

Measured on CPUs with bfloat16 units: 3-4 times the speed of float32. The choice is part of the model's fingerprint,
so it is made once a model and kind of machine and remembered; asking again needs no torch.
"""

import logging
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from encoders.fingerprints import ADAPTER_VERSION, files_digest, model_fingerprint
from encoders.sources import resolve
from schemas.commits import commit_json, exists, read_json
from schemas.configs import EncoderConfig
from schemas.digests import digest_value
from schemas.layout import Layout

if TYPE_CHECKING:
    from encoders.base import DualEncoder, PairScorer, PixelSpec

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16"]

AGREEMENT = 0.999
"""Least cosine between the vectors of both dtypes on the golden inputs."""

BF16_CPU_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of /proc/cpuinfo that mean bfloat16 arithmetic (x86 tiles, x86 vectors, ARM)."""

GOLDEN_TEXTS = (
    "a red circle left of a blue square",
    "two dogs play in the snow",
    "a man in a yellow jacket rides his bicycle down a steep street beside a tram while people look on",
    "the kitchen",
    "3 green apples, one of them bitten!",
    "a plane above clouds at sunset",
    "nobody sits on the bench under the old tree",
    "a child blows out the candles of a cake",
)


class Choice(NamedTuple):
    """A dtype and the cosine it rests on (None where nothing had to be measured)."""

    dtype: Dtype
    agreement: float | None


def fingerprint_of(config: EncoderConfig, layout: Layout | None = None) -> str:
    """The name of a model as it runs here; the same value as `.fingerprint` of the loaded adapter.

    Needs torch only where dtype is "auto", the machine has bfloat16 and nothing is remembered under the layout.

    Raises:
      ModelError: the model's files cannot be found or, where dtype is to be chosen, loaded.
    """
    return model_fingerprint(config, resolved_dtype(config, layout), layout=layout)


def pinned(config: EncoderConfig, layout: Layout | None = None) -> EncoderConfig:
    """The config with its dtype settled: what remote workers are sent, so that none of them chooses differently."""
    return config.model_copy(update={"dtype": resolved_dtype(config, layout)})


def resolved_dtype(config: EncoderConfig, layout: Layout | None = None) -> Dtype:
    """The dtype a model runs in here.

    Args:
      layout: where choices are remembered; None makes it anew.

    Raises:
      ModelError: see `fingerprint_of`.
    """
    if config.dtype != "auto":
        return config.dtype
    machine = capability()
    if machine == "none":
        return "float32"
    if layout is None:
        return choose_dtype(config).dtype
    digest = files_digest(resolve(config), layout=layout)
    memo = layout.cache("dtype", digest_value([digest, machine, ADAPTER_VERSION]))
    if not exists(memo):
        choice = choose_dtype(config)
        commit_json(memo, {"dtype": choice.dtype, "agreement": choice.agreement, "machine": machine})
    return cast(Dtype, read_json(memo)["dtype"])  # of two that chose at once, the first one's word counts for both


@cache
def capability() -> str:
    """What of bfloat16 this machine has: "cuda", CPU flags joined by "+", or "none"; no torch needed."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if Path("/dev/nvidia0").exists() and visible not in ("", "-1"):
        return "cuda"
    return "+".join(cpu_flags()) or "none"


def cpu_flags() -> list[str]:
    """Those of `BF16_CPU_FLAGS` that this machine's processor has."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return [flag for flag in BF16_CPU_FLAGS if flag in words]


def choose_dtype(config: EncoderConfig) -> Choice:
    """Measures whether bfloat16 will do: every role of the model, on golden inputs, against float32.

    Raises:
      ModelError: the model cannot be loaded.
    """
    from encoders import registry  # here, as the registry asks this module which dtype to load

    if not _usable():
        return Choice("float32", None)
    agreement = 1.0
    for adapter in registry.adapters(config):
        exact = registry.build(config, adapter, dtype="float32")
        rounded = registry.build(config, adapter, dtype="bfloat16")
        agreement = min(agreement, compare(exact, rounded))
    dtype: Dtype = "bfloat16" if agreement >= AGREEMENT else "float32"  # NaN is not >=
    logger.info("%s: cosine of bfloat16 to float32 at least %.6f, so %s", config.path, agreement, dtype)
    return Choice(dtype, float(agreement) if np.isfinite(agreement) else None)


def compare(exact: Any, rounded: Any) -> float:
    """The least cosine between what two loads of one model make of the golden inputs.

    Vectors and visual tokens are compared one by one, pair scores as one vector about their mean (what ranking
    depends on).

    Args:
      exact, rounded: adapters of the same class.
    """
    from encoders.base import DualEncoder, PairScorer

    found: list[float] = [1.0]
    if isinstance(exact, DualEncoder) and isinstance(rounded, DualEncoder):
        found += [_least_cosine(a, b) for a, b in zip(_vectors(exact), _vectors(rounded), strict=True)]
    if isinstance(exact, PairScorer) and isinstance(rounded, PairScorer):
        found += [_least_cosine(a, b) for a, b in zip(_scores(exact), _scores(rounded), strict=True)]
    return float(np.min(found))  # min of numpy: NaN stays NaN


def golden_pixels(spec: "PixelSpec", frames: int) -> np.ndarray:
    """Eight made-up pictures: waves, edges and noise of several scales, the same on every machine.

    Returns:
      uint8 (8, frames, H, W, 3).
    """
    generator = np.random.default_rng(20_250_101)
    y, x = np.mgrid[0 : spec.height, 0 : spec.width].astype(np.float32)
    pictures = []
    for number in range(len(GOLDEN_TEXTS)):
        phase = np.arange(frames, dtype=np.float32)[:, None, None, None] * 0.3
        rates = generator.uniform(0.02, 0.5, size=(2, 3)).astype(np.float32)
        waves = np.sin(x[None, :, :, None] * rates[0] + y[None, :, :, None] * rates[1] + phase)
        boxes = (((x // (8 + 4 * number)) + (y // (6 + 3 * number))) % 2)[None, :, :, None] - 0.5
        noise = generator.normal(0, 0.2, size=(1, spec.height, spec.width, 3)).astype(np.float32)
        pictures.append(np.clip(127.5 + 60 * waves + 60 * boxes + 60 * noise, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def _usable() -> bool:
    """Whether torch, as installed, can use what the machine has."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(cpu_flags())


def _vectors(encoder: "DualEncoder") -> list[np.ndarray]:
    import torch

    pixels = torch.from_numpy(golden_pixels(encoder.pixels, encoder.frames or 1))
    return [*encoder.encode_text(GOLDEN_TEXTS).values(), *encoder.encode_visual(pixels).values()]


def _scores(scorer: "PairScorer") -> list[np.ndarray]:
    """Visual tokens, one row a picture, and the scores of all pairs, one row in all, about their mean."""
    import torch

    cache = scorer.visual_cache(torch.from_numpy(golden_pixels(scorer.pixels, scorer.frames or 1)))
    count = len(GOLDEN_TEXTS)
    scores = np.concatenate(
        [scorer.score(GOLDEN_TEXTS, cache.roll(shift, dims=0)) for shift in range(count)]
    )  # every text with every picture
    return [cache.float().flatten(1).cpu().numpy(), (scores - scores.mean())[None]]


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.min(np.sum(a * b, axis=1) / norms))
