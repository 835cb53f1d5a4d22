"""The five architectures by name; a model's own code is imported when it is asked for."""

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ModelError

if TYPE_CHECKING:
    from encoders.architectures.base import Objective, RetrievalModel

ARCHITECTURES = {
    "fast_slow": "FastSlow",
    "vldeformer": "VLDeformer",
    "cooperative": "Cooperative",
    "hivlp": "HiVLP",
    "loopitr": "LoopITR",
}
"""Module in this folder -> prefix of its classes `<prefix>Config`, `<prefix>Model` and `<prefix>Objective`."""

MODEL_TYPE = "fastslow-{}"
"""`model_type` of a config.json of ours."""


def classes(name: str) -> tuple[type["RetrievalModel"], type["Objective"]]:
    """Model and objective of an architecture.

    Raises:
      ModelError: there is none of this name.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    module = importlib.import_module(f"encoders.architectures.{name}")
    prefix = ARCHITECTURES[name]
    return getattr(module, f"{prefix}Model"), getattr(module, f"{prefix}Objective")


def model_class(folder: Path) -> type["RetrievalModel"]:
    """The model class of a checkpoint folder.

    Raises:
      ModelError: it holds no config.json, or that of another kind of model.
    """
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not a trained checkpoint: {error}") from error
    return classes(str(kind).removeprefix(MODEL_TYPE.format("")))[0]
