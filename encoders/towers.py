"""The vision tower shared by the architectures: a backbone, places and times, transformer layers over all tokens.

Letters: B items, F frames (1 for an image), V tokens an item (F times those of a frame), C width, H W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from encoders.backbones import build_backbone
from encoders.layers import Block, ConvGrid, Standardise
from encoders.top_layers import before_top, shrunk, through_top
from schemas.errors import ModelError

FRAMES_AT_ONCE = 4
"""On a CPU where nothing learns: the maps of more do not stay in its caches."""


class VisualTower(nn.Module):
    """Pixels, or what the frozen part of the backbone made of them, to tokens."""

    def __init__(self, config: Any) -> None:
        """Builds it untrained.

        Args:
          config: a RetrievalConfig.
        """
        super().__init__()
        width = config.visual_width
        self.backbone = build_vision(config)
        self.backbone_layers, self.side = tuple(config.vision_layers), config.vision_side
        self.top = config.vision_top
        standardise = config.visual_norm == "batch"
        self.standardise = Standardise(config.backbone_width) if standardise else None
        self.dropout = nn.Dropout1d(config.visual_dropout)
        self.enter = nn.Linear(config.backbone_width, width)
        self.space = nn.Parameter(torch.zeros(config.frame_tokens, width)) if config.spatial_positions else None
        self.time = nn.Parameter(torch.zeros(config.max_frames, width)) if config.max_frames else None
        self.blocks = nn.ModuleList(Block(width, config.visual_heads) for _ in range(config.visual_layers))
        self.norm = nn.LayerNorm(width)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the frozen part of the backbone makes of frames (B, 3, H, W): (B, V, C_backbone), or before the top."""
        return grid_features(self.backbone, pixels, self.backbone_layers, self.top)

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        """Tokens (B, V, C) of pixels (B, F, 3, H, W) or of backbone features (B, F, V/F, C_backbone)."""
        return self.transform(self.look(visual))

    def look(self, visual: torch.Tensor) -> torch.Tensor:
        """Features of the backbone (B, F, V/F, C_backbone), on one scale and partly hidden where the config says so."""
        items, frames = visual.shape[:2]
        features = self.features(visual.flatten(0, 1)) if visual.ndim == 5 else visual.flatten(0, 1)
        if self.top:
            features = through_top(self.backbone, features, self.top, self.backbone_layers)
        features = averaged(features, self.side)
        if self.standardise is not None:
            features = self.standardise(features.flatten(0, 1)).view_as(features)
        if self.dropout.p:
            features = self.dropout(features.transpose(1, 2)).transpose(1, 2)  # hides a channel in all tokens
        return features.view(items, frames, *features.shape[1:])

    def transform(self, features: torch.Tensor) -> torch.Tensor:
        """Tokens (B, V, C) of what `look` saw."""
        out: torch.Tensor = self.norm(self.layers(features)[-1])
        return out

    def layers(self, features: torch.Tensor) -> list[torch.Tensor]:
        """What enters the first transformer layer and what leaves each, (B, V, C), before the last norm."""
        tokens = self.enter(features)
        if self.space is not None:
            tokens = tokens + self.space
        if self.time is not None and features.shape[1] > 1:
            tokens = tokens + interpolated(self.time, features.shape[1])[:, None, :]
        tokens = tokens.flatten(1, 2)
        layers = [tokens]
        for block in self.blocks:
            layers.append(block(layers[-1]))
        return layers


def build_vision(config: Any) -> nn.Module:
    """The untrained vision backbone of a RetrievalConfig: a Hugging Face one, or the convolutional grid.

    Raises:
      ModelError: transformers does not know the model type.
    """
    if config.vision_config is not None:
        return build_backbone(config.vision_config)
    return ConvGrid(config.image_size, config.grid, config.backbone_width)


def grid_features(backbone: nn.Module, pixels: torch.Tensor, layers: Sequence[int] = (), top: int = 0) -> torch.Tensor:
    """Tokens (B, V, C) that a vision backbone, one of patches or a convolutional one, makes of frames (B, 3, H, W).

    Args:
      backbone: a Hugging Face one, or the convolutional grid, which has no use for `layers`.
      layers: hidden states whose channels join those of the last one; larger maps are averaged to its cells.
      top: last layers that are left out; the tokens are what `through_top` wants.

    Raises:
      ModelError: the backbone has fewer layers.
    """
    if isinstance(backbone, ConvGrid):
        grid: torch.Tensor = backbone(pixels)
        return grid
    if pixels.device.type == "cpu":
        if len(pixels) > FRAMES_AT_ONCE and not torch.is_grad_enabled():
            parts = torch.split(pixels, FRAMES_AT_ONCE)
            return torch.cat([grid_features(backbone, part, layers, top) for part in parts])
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # what convolutions are fastest on there
    if top:
        return before_top(backbone, pixels, top, layers)
    found = backbone(pixel_values=pixels, output_hidden_states=bool(layers))
    hidden = found.hidden_states if layers else ()
    if layers and max(layers) >= len(hidden):
        raise ModelError(f"vision_layers: expected numbers below {len(hidden)}, got {list(layers)}")
    maps = [found.last_hidden_state, *(hidden[layer] for layer in layers)]
    if maps[0].ndim == 3:
        return torch.cat(maps, -1)
    cells = maps[0].shape[2:]
    maps = [one if one.shape[2:] == cells else shrunk(one, cells) for one in maps]
    return torch.cat(maps, 1).flatten(2).transpose(1, 2)


def averaged(features: torch.Tensor, side: int) -> torch.Tensor:
    """A square grid (..., V, C) averaged to `side` cells a side, (..., side * side, C); 0: as it is.

    Where `side` does not divide the grid, cells overlap (functional.adaptive_avg_pool2d).

    Raises:
      ModelError: there are tokens beside the grid, or the grid has fewer cells than `side`.
    """
    tokens, width = features.shape[-2:]
    if side in (0, tokens**0.5):
        return features
    has = math.isqrt(tokens)
    if has * has != tokens or has < side:
        raise ModelError(f"vision_side {side}: expected a square grid of as many cells or more, got {tokens} tokens")
    grid = features.reshape(-1, has, has, width).permute(0, 3, 1, 2)
    cells = shrunk(grid, (side, side)).flatten(2).transpose(1, 2)
    return cells.reshape(*features.shape[:-2], side * side, width)


def interpolated(times: torch.Tensor, frames: int) -> torch.Tensor:
    """Embeddings (F, C) of the times (i + 0.5) / F of a clip, from a table (max_frames, C) of as many times."""
    if frames == len(times):
        return times
    table = functional.interpolate(times.float().T[None], size=frames, mode="linear", align_corners=False)
    return table[0].T.to(times.dtype)
