"""Loads a Hugging Face model for inference: safetensors only, complete or not at all, no code from the repository."""

from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from encoders.model_files import weight_files
from schemas.errors import ModelError

Model = TypeVar("Model", bound=PreTrainedModel)


def load_weights(kind: type[Model], folder: Path, *, dtype: torch.dtype, device: torch.device) -> Model:
    """A model in evaluation mode, parameters frozen.

    Args:
      kind: the class to load; the folder's config must be its own.
      dtype: of the weights.

    Raises:
      ModelError: no safetensors, or weights the class needs are missing or misshapen (transformers would draw
        them at random and only warn).
    """
    weight_files(folder)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # we show our own progress
    try:
        loaded: Any = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be loaded as {kind.__name__}: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder}: expected the weights of a {kind.__name__}, {len(missing)} are missing, the first: {missing[0]}"
        )
    return cast(Model, model.requires_grad_(False).eval().to(device))


def device_of(device: str | None) -> torch.device:
    """The device asked for, or the first GPU, or the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
