"""Encoder and scorer: here, in the hub's cache or to be had from the hub, and of a type that will do."""

from pathlib import Path
from typing import Literal

from encoders.hub import offered
from encoders.model_files import read_json, weight_files
from encoders.registry import MODEL_TYPES
from encoders.sources import present
from pipelines.doctor.finding import Finding, error, ok
from schemas.configs import EncoderConfig
from schemas.errors import FastslowError

HUB_S = 5.0
"""Longest wait for an answer of the hub."""

SIDES = {"encoder": "dual", "scorer": "scorer"}
"""Side -> field of `registry.Entry`."""


def look(side: Literal["encoder", "scorer"], config: EncoderConfig) -> Finding:
    """Whether a model can be loaded, as far as its files say; fetches nothing."""
    try:
        folder = present(config)
        if folder is None:
            offered(config.path, config.revision, timeout_s=HUB_S)
            return ok(side, f"{config.path}: not in the cache, the hub has it")
        weight_files(folder)
        kind = read_json(folder / "config.json").get("model_type")
    except FastslowError as problem:
        return error(side, str(problem))
    entry = MODEL_TYPES.get(str(kind))
    if entry is None or getattr(entry, SIDES[side]) is None:
        able = sorted(name for name, one in MODEL_TYPES.items() if getattr(one, SIDES[side]) is not None)
        return error(
            side, f"{config.path}: a model of type {kind!r} cannot be one", f"types that can: {', '.join(able)}"
        )
    return ok(side, f"{config.path}: {kind}, {_size(folder)}")


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in weight_files(folder)) / 1e6:,.1f} MB"
