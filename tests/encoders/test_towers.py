"""What a backbone's earlier layers add, and coarser grids."""

import pytest
import torch
from transformers import MobileNetV2Config, MobileNetV2Model, ViTConfig, ViTModel

from encoders.layers import ConvGrid, Standardise
from encoders.towers import averaged, grid_features
from schemas.errors import ModelError


@pytest.fixture(scope="module")
def maps() -> MobileNetV2Model:
    torch.manual_seed(0)
    config = MobileNetV2Config(image_size=64, depth_multiplier=0.25, finegrained_output=False)
    return MobileNetV2Model(config).eval()


@torch.inference_mode()
def test_channels_of_earlier_layers_join_those_of_the_last_cell_by_cell(maps):
    pixels = torch.randn(2, 3, 64, 64)
    seen = maps(pixel_values=pixels, output_hidden_states=True)
    last, early = seen.last_hidden_state, seen.hidden_states[6]
    assert early.shape[-1] == 2 * last.shape[-1]
    tokens = grid_features(maps, pixels, (6,))
    width = last.shape[1]
    torch.testing.assert_close(tokens[..., :width], last.flatten(2).mT)
    torch.testing.assert_close(
        tokens[1, 1, width:], early[1, :, :2, 2:4].mean((1, 2))
    )  # the second cell of the top row
    torch.testing.assert_close(grid_features(maps, pixels), last.flatten(2).mT)


@torch.inference_mode()
def test_patches_keep_their_number_and_a_layer_that_is_not_there_is_named(maps):
    tower = ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32),
        add_pooling_layer=False,
    ).eval()
    assert grid_features(tower, torch.zeros(1, 3, 32, 32), (0, 1)).shape == (1, 5, 48)
    with pytest.raises(ModelError, match="vision_layers: expected numbers below 3, got \\[7\\]"):
        grid_features(tower, torch.zeros(1, 3, 32, 32), (7,))
    grid = ConvGrid(32, 4, 8)
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(grid_features(grid, pixels, (1,)), grid(pixels))


def test_a_grid_is_averaged_to_fewer_cells():
    grid = torch.arange(16.0).view(1, 16, 1).expand(3, 16, 2)
    assert averaged(grid, 0) is grid
    assert averaged(grid, 4) is grid
    assert averaged(grid, 2)[2, :, 1].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert averaged(grid[None], 1).shape == (1, 3, 1, 2)
    assert averaged(grid, 3)[2, :, 1].tolist() == [2.5, 3.5, 4.5, 6.5, 7.5, 8.5, 10.5, 11.5, 12.5]  # 2 x 2 each
    for tokens, side in ((17, 1), (16, 5)):
        with pytest.raises(ModelError, match=f"vision_side {side}.*got {tokens} tokens"):
            averaged(torch.zeros(1, tokens, 2), side)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_standardised_maps_and_texts_keep_the_dtype_of_the_weights(dtype):
    norm = Standardise(8)
    for _ in range(50):
        norm(3 + 2 * torch.randn(64, 8))
    norm.eval().to(dtype)
    x = 3 + 2 * torch.randn(5, 8)
    found = norm(x.to(dtype))
    assert found.dtype == norm(x).dtype == dtype
    torch.testing.assert_close(found.float(), (x - 3) / 2, atol=0.5, rtol=0)
    grid = torch.randn(2, 49, 8).to(dtype)
    assert averaged(grid, 4).dtype == dtype
