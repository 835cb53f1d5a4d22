"""Which model types there are, and the one place models are loaded through.

Light until a model is really loaded: adapters, and torch with them, are imported by the functions below.
"""

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from encoders import sources
from encoders.architectures import ARCHITECTURES, MODEL_TYPE
from encoders.fingerprints import model_fingerprint
from schemas.configs import EncoderConfig
from schemas.errors import ModelError
from schemas.layout import Layout

if TYPE_CHECKING:
    import torch

    from encoders.base import DualEncoder, PairScorer

resolve = sources.resolve
model_type = sources.model_type


class AdapterType(Protocol):
    """How every adapter is made."""

    def __call__(self, folder: Path, *, fingerprint: str, dtype: "torch.dtype", device: "torch.device") -> Any:
        """A loaded adapter."""
        ...


class Entry(NamedTuple):
    """What a model type can be used as; each field imports and returns the adapter class.

    Attributes:
      dual: of a `DualEncoder`, None if the model cannot be one.
      scorer: of a `PairScorer`, None if the model cannot be one.
    """

    dual: Callable[[], AdapterType] | None
    scorer: Callable[[], AdapterType] | None


def _clip() -> AdapterType:
    from encoders.hf.clip import ClipEncoder

    return ClipEncoder


def _siglip() -> AdapterType:
    from encoders.hf.siglip import SiglipEncoder

    return SiglipEncoder


def _siglip2() -> AdapterType:
    from encoders.hf.siglip import Siglip2Encoder

    return Siglip2Encoder


def _xclip() -> AdapterType:
    from encoders.hf.xclip import XClipEncoder

    return XClipEncoder


def _blip() -> AdapterType:
    from encoders.hf.blip import BlipScorer

    return BlipScorer


def _trained() -> AdapterType:
    from encoders.architectures.encoder import TrainedEncoder

    return TrainedEncoder


MODEL_TYPES: dict[str, Entry] = {
    "clip": Entry(dual=_clip, scorer=None),
    "siglip": Entry(dual=_siglip, scorer=None),
    "siglip2": Entry(dual=_siglip2, scorer=None),
    "xclip": Entry(dual=_xclip, scorer=None),
    "blip": Entry(dual=None, scorer=_blip),
    **{MODEL_TYPE.format(name): Entry(dual=_trained, scorer=_trained) for name in ARCHITECTURES},
}
"""`model_type` of a config.json -> its adapters."""

_loaded: "weakref.WeakValueDictionary[tuple[object, ...], Any]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def load_dual(config: EncoderConfig, *, layout: Layout | None = None, device: str | None = None) -> "DualEncoder":
    """The fast side of a model, ready to encode.

    A model that somebody in this process still holds is handed out again, so a config used for both sides, or by
    several threads, is loaded once.

    Args:
      layout: where the choice of dtype is remembered; None chooses again.
      device: torch name; None takes the first GPU, else the CPU.

    Raises:
      ConfigError: an unknown built-in name.
      ModelError: it cannot be found or loaded, or is of a type that cannot be a dual encoder.
    """
    from encoders.precision import resolved_dtype

    encoder: DualEncoder = build(
        config, _entry(config, "dual"), dtype=resolved_dtype(config, layout), layout=layout, device=device
    )
    return encoder


def load_scorer(config: EncoderConfig, *, layout: Layout | None = None, device: str | None = None) -> "PairScorer":
    """The slow side of a model, ready to score; arguments, errors and sharing as `load_dual`.

    As the object may be shared, read `pair_evaluations` before and after to count your own.
    """
    from encoders.precision import resolved_dtype

    scorer: PairScorer = build(
        config, _entry(config, "scorer"), dtype=resolved_dtype(config, layout), layout=layout, device=device
    )
    return scorer


def adapters(config: EncoderConfig) -> list[AdapterType]:
    """The adapter classes of a config's model, each once, the dual encoder first.

    Raises:
      ModelError: unknown model type; lists the known ones.
    """
    name = model_type(config)
    if name not in MODEL_TYPES:
        raise ModelError(f"{config.path}: unknown model type {name!r}; known: {', '.join(sorted(MODEL_TYPES))}")
    found = [make() for make in MODEL_TYPES[name] if make is not None]
    return list(dict.fromkeys(found))


def build(
    config: EncoderConfig, adapter: AdapterType, *, dtype: str, layout: Layout | None = None, device: str | None = None
) -> Any:
    """One adapter over a config's model in a given dtype, shared with whoever in this process holds the same.

    Args:
      adapter: from `adapters`.
      dtype: "float32" or "bfloat16".
      layout: where digests of weight files are remembered.
      device: see `load_dual`.

    Raises:
      ModelError: it cannot be loaded.
    """
    import torch

    from encoders.hf.weights import device_of

    where = device_of(device)
    fingerprint = model_fingerprint(config, dtype, layout=layout)
    key = (adapter, fingerprint, str(where))
    with _lock:
        found = _loaded.get(key)
        if found is None:
            found = adapter(resolve(config), fingerprint=fingerprint, dtype=getattr(torch, dtype), device=where)
            _loaded[key] = found
        return found


def _entry(config: EncoderConfig, side: str) -> AdapterType:
    name = model_type(config)
    if name not in MODEL_TYPES:
        adapters(config)  # raises
    make: Callable[[], AdapterType] | None = getattr(MODEL_TYPES[name], side)
    if make is None:
        able = ", ".join(sorted(kind for kind, entry in MODEL_TYPES.items() if getattr(entry, side) is not None))
        what = "a dual encoder" if side == "dual" else "a pair scorer"
        raise ModelError(f"{config.path}: a model of type {name!r} cannot be {what}; types that can: {able}")
    return make()
