"""The last layers of a backbone apart: the same maps as of the whole, gradients for them alone."""

import pytest
import torch
from torch import nn

from encoders.top_layers import before_top, learnt, through_top
from encoders.towers import grid_features
from schemas.errors import ModelError


@pytest.fixture(scope="module")
def maps(small_backbone) -> nn.Module:
    return small_backbone("mobilenet")


@pytest.mark.parametrize("layers", [(), (15,), (11, 14, 15), (15, 3)])
@pytest.mark.parametrize("top", [1, 3, 5])
def test_both_parts_make_what_the_whole_makes(maps, layers, top):
    pixels = torch.randn(3, 3, 64, 64)
    seen = grid_features(maps, pixels, layers, top)
    assert not seen.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(through_top(maps, seen, top, layers), grid_features(maps, pixels, layers))


@pytest.fixture(scope="module")
def efficient(small_backbone) -> nn.Module:
    return small_backbone("efficientnet")


@pytest.mark.parametrize("layers", [(), (7,), (3, 6, 7), (7, 0, 5)])
@pytest.mark.parametrize("top", [1, 3])
def test_both_parts_of_an_efficientnet_make_what_the_whole_makes(efficient, layers, top):
    pixels = torch.randn(2, 3, 64, 64)
    seen = grid_features(efficient, pixels, layers, top)
    with torch.no_grad():
        torch.testing.assert_close(through_top(efficient, seen, top, layers), grid_features(efficient, pixels, layers))
    through_top(efficient, seen, top, layers).square().mean().backward()
    moved = {name for name, parameter in efficient.named_parameters() if parameter.grad is not None}
    parts = tuple(f"{part}." for part in learnt(efficient, top))
    assert moved == {name for name, _ in efficient.named_parameters() if name.startswith(parts)}
    efficient.zero_grad(set_to_none=True)


def test_only_the_top_has_gradients(maps):
    through_top(maps, before_top(maps, torch.randn(2, 3, 64, 64), 2, (3,)), 2, (3,)).square().mean().backward()
    moved = {name for name, parameter in maps.named_parameters() if parameter.grad is not None}
    parts = tuple(f"{part}." for part in learnt(maps, 2))
    assert parts == ("layer.14.", "layer.15.", "conv_1x1.")
    assert moved == {name for name, _ in maps.named_parameters() if name.startswith(parts)}


def test_what_cannot_be_split_is_named(maps, small_backbone):
    with pytest.raises(ModelError, match="expected a MobileNetV2 or an EfficientNet, got ResNetModel"):
        learnt(small_backbone("resnet"), 1)
    with pytest.raises(ModelError, match="expected 1 to 15 layers, got 16"):
        learnt(maps, 16)
    with pytest.raises(ModelError, match="vision_layers: expected numbers below 16"):
        through_top(maps, before_top(maps, torch.randn(1, 3, 64, 64), 2), 2, (16,))
