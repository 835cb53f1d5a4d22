"""Loaded tiny encoders, and inputs for them."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from schemas.configs import EncoderConfig

TEXTS = (
    "a red circle left of a blue square",
    "the dog",
    "two women and a man stand beside the boat on the beach with a small yellow car and a large green star above",
    "naïve 漢字 🙂 zebra!",
    "",
)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def config_of(tiny_model) -> Callable[[str], EncoderConfig]:
    """Tiny model's name -> config of it in float32."""
    return lambda name: EncoderConfig(path=str(tiny_model(name)), dtype="float32")


@pytest.fixture(scope="session")
def dual(config_of):
    """Tiny model's name -> loaded dual encoder; one a session."""
    from encoders.registry import load_dual

    return cache(lambda name: load_dual(config_of(name)))


@pytest.fixture(scope="session")
def scorer(config_of):
    """Tiny model's name -> loaded pair scorer; one a session."""
    from encoders.registry import load_scorer

    return cache(lambda name: load_scorer(config_of(name)))


@pytest.fixture(scope="session")
def pictures():
    """(spec, count, frames) -> random uint8 (count, frames, H, W, 3)."""
    import torch

    def make(spec, count: int, frames: int = 1, seed: int = 0) -> torch.Tensor:
        shape = (count, frames, spec.height, spec.width, 3)
        return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8))

    return make


@pytest.fixture
def copied(tiny_model, tmp_path) -> Callable[[str], Path]:
    """Tiny model's name -> a copy of its folder that may be changed."""
    return lambda name: Path(shutil.copytree(tiny_model(name), tmp_path / name))


@pytest.fixture(scope="session")
def small_backbone():
    """An untrained convolutional backbone for 64 pixels, new at each call: "mobilenet", "efficientnet" or "resnet"."""
    import torch
    from transformers import AutoModel, EfficientNetConfig, MobileNetV2Config, ResNetConfig

    configs = {
        "mobilenet": MobileNetV2Config(image_size=64, depth_multiplier=0.25, finegrained_output=False),  # 16 layers
        "efficientnet": EfficientNetConfig(  # 7 layers, which make hidden states 1 to 7
            image_size=64, width_coefficient=0.25, hidden_dim=320, num_block_repeats=[1] * 7, depthwise_padding=[]
        ),
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2]),
    }

    def make(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return AutoModel.from_config(configs[name]).eval()

    return make
