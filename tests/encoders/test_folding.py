"""Folded batch norms: the same maps, without batch norms."""

import pytest
import torch
from torch import nn

from encoders.folding import fold_batch_norms
from encoders.towers import FRAMES_AT_ONCE, grid_features


@pytest.mark.parametrize("name", ["mobilenet", "efficientnet", "resnet"])
@torch.inference_mode()
def test_folded_maps_are_the_same_and_no_batch_norm_is_left(name, small_backbone):
    backbone = small_backbone(name)
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
