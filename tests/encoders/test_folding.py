"""Folded batch norms: the same maps, without batch norms."""

import pytest
import torch
from torch import nn
from transformers import (
    EfficientNetConfig,
    EfficientNetModel,
    MobileNetV2Config,
    MobileNetV2Model,
    ResNetConfig,
    ResNetModel,
)

from encoders.folding import fold_batch_norms
from encoders.towers import FRAMES_AT_ONCE, grid_features

SMALL = {
    "mobilenet": lambda: MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.25)),
    "efficientnet": lambda: EfficientNetModel(
        EfficientNetConfig(image_size=64, width_coefficient=0.25, hidden_dim=320, num_block_repeats=[1] * 7)
    ),
    "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])),
}


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_folded_maps_are_the_same_and_no_batch_norm_is_left(name):
    torch.manual_seed(0)
    backbone = SMALL[name]().eval()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        for values, (low, high) in {
            norm.running_mean: (-1, 1),
            norm.running_var: (0.5, 2),
            norm.weight: (0.5, 2),
        }.items():
            values.uniform_(low, high)
    pixels = torch.randn(2 * FRAMES_AT_ONCE + 1, 3, 64, 64)
    whole = backbone(pixel_values=pixels).last_hidden_state.flatten(2).mT
    assert norms
    fold_batch_norms(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    torch.testing.assert_close(grid_features(backbone, pixels), whole, rtol=1e-3, atol=1e-3)
