"""The last layers of a vision backbone, which learn, apart from those before them, which do not and see once.

Letters: B frames, V cells of the map between the two parts, C0 its channels and those of earlier layers, C as of
  towers.grid_features, H W pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import EfficientNetModel, MobileNetV2Model

from schemas.errors import ModelError


class Parts(NamedTuple):
    """A convolutional backbone, taken apart.

    Attributes:
      stem: before the layers.
      layers: by number.
      last: after the layers, in order.
      path: name of `layers`.
      ends: names of those of `last` that have weights.
      first_state: number of the hidden state that the first layer makes.
    """

    stem: nn.Module
    layers: nn.ModuleList
    last: tuple[nn.Module, ...]
    path: str
    ends: tuple[str, ...]
    first_state: int


def taken_apart(backbone: nn.Module) -> Parts:
    """The parts of a backbone.

    Raises:
      ModelError: it is neither a MobileNetV2 nor an EfficientNet.
    """
    if isinstance(backbone, MobileNetV2Model):
        return Parts(backbone.conv_stem, backbone.layer, (backbone.conv_1x1,), "layer", ("conv_1x1",), 0)
    if isinstance(backbone, EfficientNetModel):
        inner = backbone.encoder
        last, ends = (inner.top_conv, inner.top_bn, inner.top_activation), ("encoder.top_conv", "encoder.top_bn")
        return Parts(backbone.embeddings, inner.blocks, last, "encoder.blocks", ends, 1)
    raise ModelError(
        f"vision_top: expected a MobileNetV2 or an EfficientNet, got {type(backbone).__name__}; use vision_top 0"
    )


def split(backbone: nn.Module, top: int) -> tuple[Parts, int]:
    """The parts and the number of the first layer that learns.

    Raises:
      ModelError: it is another backbone than those known, or has no layer left that does not learn.
    """
    found = taken_apart(backbone)
    if not 0 < top < len(found.layers):
        raise ModelError(f"vision_top: expected 1 to {len(found.layers) - 1} layers, got {top}")
    return found, len(found.layers) - top


def learnt(backbone: nn.Module, top: int) -> list[str]:
    """Names of the submodules that learn: the last `top` layers and what follows them."""
    found, first = split(backbone, top)
    return [*(f"{found.path}.{number}" for number in range(first, len(found.layers))), *found.ends]


def shrunk(maps: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """Maps (B, C, H, W) averaged to fewer cells, in float32, then of their own dtype again."""
    height, width = cells
    return functional.adaptive_avg_pool2d(maps.float(), (height, width)).to(maps.dtype)


def before_top(backbone: nn.Module, pixels: torch.Tensor, top: int, layers: Sequence[int] = ()) -> torch.Tensor:
    """What enters the last layers, of frames (B, 3, H, W): (B, V, C0), without gradients.

    Args:
      layers: hidden states that `through_top` joins; the early ones among them are averaged to the V cells.
    """
    found, first = split(backbone, top)
    with torch.no_grad():
        seen = found.stem(pixels)
        early = dict.fromkeys(range(found.first_state), seen)
        for number, layer in enumerate(found.layers[:first], start=found.first_state):
            seen = layer(seen)
            early[number] = seen
        cells = seen.shape[2:]
        kept = (shrunk(early[layer], cells) for layer in layers if layer < first + found.first_state)
        return torch.cat([seen, *kept], 1).flatten(2).transpose(1, 2)


def through_top(backbone: nn.Module, seen: torch.Tensor, top: int, layers: Sequence[int] = ()) -> torch.Tensor:
    """The rest of the way, (B, V, C0) of `before_top` -> (B, V', C), as towers.grid_features of the pixels.

    Raises:
      ModelError: the backbone has fewer layers.
    """
    found, first = split(backbone, top)
    states = len(found.layers) + found.first_state
    if layers and max(layers) >= states:
        raise ModelError(f"vision_layers: expected numbers below {states}, got {list(layers)}")
    side = math.isqrt(seen.shape[1])
    maps = seen.transpose(1, 2).reshape(len(seen), -1, side, side)
    width = next(part.in_channels for part in found.layers[first].modules() if isinstance(part, nn.Conv2d))
    state, early = maps[:, :width], maps[:, width:]
    late: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(found.layers[first:], start=first + found.first_state):
        state = layer(state)
        late[number] = state
    for part in found.last:
        state = part(state)
    before = [layer for layer in layers if layer not in late]
    made_by = [found.stem] * found.first_state + list(found.layers)
    widths = [_out_channels(made_by[layer]) for layer in before]
    parts = iter(torch.split(early, widths, 1) if widths else ())
    joined = [late[layer] if layer in late else next(parts) for layer in layers]
    cells = state.shape[2:]
    joined = [one if one.shape[2:] == cells else shrunk(one, cells) for one in joined]
    return torch.cat([state, *joined], 1).flatten(2).transpose(1, 2)


def _out_channels(layer: nn.Module) -> int:
    return [part.out_channels for part in layer.modules() if isinstance(part, nn.Conv2d)][-1]
