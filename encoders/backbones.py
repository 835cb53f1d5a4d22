"""Hugging Face towers inside our architectures: untrained from a config, or pretrained by hub id or folder."""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from schemas.errors import ModelError


def build_backbone(settings: dict[str, Any]) -> PreTrainedModel:
    """An untrained Hugging Face backbone from its config, without the pooler that nothing here reads.

    Raises:
      ModelError: the config names no model type, or one transformers does not know.
    """
    settings = {key: value for key, value in settings.items() if key != "dtype"}
    kind = settings.pop("model_type", None)
    if not isinstance(kind, str):
        raise ModelError(f"backbone config: model_type: expected a transformers model type, got {kind!r}")
    try:
        config = AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise ModelError(f"backbone config: {error}") from error
    model_class: Any = AutoModel._model_mapping[type(config)]
    pooler = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}
    backbone: PreTrainedModel = AutoModel.from_config(config, **pooler)  # type: ignore[no-untyped-call]
    return backbone


def load_backbone(path: str, *, part: str, depth: int = 0) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and float32 weights of a pretrained backbone, by hub id or folder.

    Args:
      part: "vision" or "text": the tower that is taken of a checkpoint that holds both (CLIP).
      depth: its first layers alone, as many; 0: all.

    Raises:
      ModelError: there is no such model, it has no safetensors weights, or fewer layers.
    """
    try:
        config = AutoConfig.from_pretrained(path)
        inner = getattr(config, f"{part}_config", None)
        whole = AutoModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{part} backbone {path}: expected a folder that is there, or the id of a model on the hub "
            f"(--set model.{part}=...): {error}"
        ) from error
    tower = getattr(whole, f"{part}_model", whole) if inner is not None else whole
    settings = (inner or config).to_diff_dict()
    settings = {key: value for key, value in settings.items() if key not in ("dtype", "architectures", "_name_or_path")}
    settings["model_type"] = (inner or config).model_type
    if depth:
        has = getattr(inner or config, "num_hidden_layers", 0)
        if depth > has:
            raise ModelError(f"{part} backbone {path}: expected {depth} layers or more, got {has}")
        settings["num_hidden_layers"] = depth
    wanted = build_backbone(settings).state_dict()
    weights = tower.state_dict()
    # CLIP's towers carry a prefix of their own in some releases.
    weights = weights if wanted.keys() & weights.keys() else {f"{part}_model.{k}": v for k, v in weights.items()}
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise ModelError(f"{part} backbone {path}: {len(missing)} weights are missing, {missing[0]} first")
    return settings, {key: weights[key] for key in wanted}
