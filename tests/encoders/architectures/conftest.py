"""What the tests of all architectures need: small Hugging Face vision backbones on disk, and the adapter of a model."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MobileNetV2Config, ViTConfig

from encoders.architectures.encoder import TrainedEncoder
from encoders.backbones import build_backbone
from encoders.training.build import Built, preprocessor_config


@dataclass(frozen=True)
class Tower:
    """A vision backbone as `save_pretrained` leaves it, its pixels a side, and itself."""

    folder: Path
    size: int
    module: nn.Module


def vit() -> tuple[dict, int]:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    return {**config.to_diff_dict(), "model_type": "vit"}, 16


def mobilenet() -> tuple[dict, int]:
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.1, finegrained_output=False)
    return {**config.to_diff_dict(), "model_type": "mobilenet_v2"}, 32


@pytest.fixture
def tower(tmp_path) -> Callable[[str], Tower]:
    """name ("vit": patches and a [CLS], "mobilenet": a grid and batch norms) -> a backbone with random weights."""

    def make(name: str) -> Tower:
        torch.manual_seed(0)
        config, size = {"vit": vit, "mobilenet": mobilenet}[name]()
        module, folder = build_backbone(config), tmp_path / "backbone"
        module.save_pretrained(folder)
        wanted = {"size": {"height": size, "width": size}, "do_center_crop": False, "resample": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(wanted))
        return Tower(folder, size, module)

    return make


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Callable[[Built], TrainedEncoder]:
    """A built model, saved and opened as the pipeline opens it."""

    def open_saved(built: Built) -> TrainedEncoder:
        folder = tmp_path_factory.mktemp("checkpoint")
        built.model.save_pretrained(folder)
        built.tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(built.spec)))
        return TrainedEncoder(folder, dtype=torch.float32, device=torch.device("cpu"), fingerprint="f" * 64)

    return open_saved
