"""The last layers of a vision backbone, which learn, apart from those before them, which do not and see once.

Letters: B frames, V cells of the map between the two parts, C0 its channels and those of earlier layers, C as of
  towers.grid_features, H W pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import MobileNetV2Model

from schemas.errors import ModelError


def split(backbone: nn.Module, top: int) -> tuple[MobileNetV2Model, int]:
    """The backbone and the number of its first layer that learns.

    Raises:
      ModelError: it is another backbone than a MobileNetV2, or has no layer left that does not learn.
    """
    if not isinstance(backbone, MobileNetV2Model):
        raise ModelError(f"vision_top: expected a MobileNetV2, got {type(backbone).__name__}; use vision_top 0")
    if not 0 < top < len(backbone.layer):
        raise ModelError(f"vision_top: expected 1 to {len(backbone.layer) - 1} layers, got {top}")
    return backbone, len(backbone.layer) - top


def learnt(backbone: nn.Module, top: int) -> list[str]:
    """Names of the submodules that learn: the last `top` layers and what follows them."""
    found, first = split(backbone, top)
    return [*(f"layer.{number}" for number in range(first, len(found.layer))), "conv_1x1"]


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
    early: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        seen = found.conv_stem(pixels)
        for number, layer in enumerate(found.layer[:first]):
            seen = layer(seen)
            early[number] = seen
        cells = seen.shape[2:]
        kept = (shrunk(early[layer], cells) for layer in layers if layer < first)
        return torch.cat([seen, *kept], 1).flatten(2).transpose(1, 2)


def through_top(backbone: nn.Module, seen: torch.Tensor, top: int, layers: Sequence[int] = ()) -> torch.Tensor:
    """The rest of the way, (B, V, C0) of `before_top` -> (B, V', C), as towers.grid_features of the pixels.

    Raises:
      ModelError: the backbone has fewer layers.
    """
    found, first = split(backbone, top)
    if layers and max(layers) >= len(found.layer):
        raise ModelError(f"vision_layers: expected numbers below {len(found.layer)}, got {list(layers)}")
    side = math.isqrt(seen.shape[1])
    maps = seen.transpose(1, 2).reshape(len(seen), -1, side, side)
    width = next(part.in_channels for part in found.layer[first].modules() if isinstance(part, nn.Conv2d))
    state, early = maps[:, :width], maps[:, width:]
    late: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(found.layer[first:], start=first):
        state = layer(state)
        late[number] = state
    last = found.conv_1x1(state)
    widths = [_out_channels(found.layer[layer]) for layer in layers if layer < first]
    parts = iter(torch.split(early, widths, 1) if widths else ())
    joined = [next(parts) if layer < first else late[layer] for layer in layers]
    cells = last.shape[2:]
    joined = [one if one.shape[2:] == cells else shrunk(one, cells) for one in joined]
    return torch.cat([last, *joined], 1).flatten(2).transpose(1, 2)


def _out_channels(layer: nn.Module) -> int:
    return [part.out_channels for part in layer.modules() if isinstance(part, nn.Conv2d)][-1]
