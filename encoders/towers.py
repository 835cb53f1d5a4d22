"""The vision tower shared by the architectures: a backbone, places and times, transformer layers over all tokens.

Letters: B items, F frames (1 for an image), V tokens an item (F times those of a frame), C width, H W pixels.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from encoders.backbones import build_backbone
from encoders.layers import Block, ConvGrid


class VisualTower(nn.Module):
    """Pixels, or cached features of the backbone, to tokens."""

    def __init__(self, config: Any) -> None:
        """Builds it untrained.

        Args:
          config: a RetrievalConfig.
        """
        super().__init__()
        width = config.visual_width
        self.backbone = build_vision(config)
        standardise = config.visual_norm == "batch"
        self.standardise = nn.BatchNorm1d(config.backbone_width, affine=False) if standardise else None
        self.dropout = nn.Dropout1d(config.visual_dropout)
        self.enter = nn.Linear(config.backbone_width, width)
        self.space = nn.Parameter(torch.zeros(config.frame_tokens, width)) if config.spatial_positions else None
        self.time = nn.Parameter(torch.zeros(config.max_frames, width)) if config.max_frames else None
        self.blocks = nn.ModuleList(Block(width, config.visual_heads) for _ in range(config.visual_layers))
        self.norm = nn.LayerNorm(width)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the backbone makes of frames (B, 3, H, W): (B, V, C_backbone)."""
        return grid_features(self.backbone, pixels)

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        """Tokens (B, V, C) of pixels (B, F, 3, H, W) or of backbone features (B, F, V/F, C_backbone)."""
        return self.transform(self.look(visual))

    def look(self, visual: torch.Tensor) -> torch.Tensor:
        """Features of the backbone (B, F, V/F, C_backbone), on one scale and partly hidden where the config says so."""
        items, frames = visual.shape[:2]
        features = self.features(visual.flatten(0, 1)) if visual.ndim == 5 else visual.flatten(0, 1)
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


def grid_features(backbone: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Tokens (B, V, C) that a vision backbone, one of patches or a convolutional one, makes of frames (B, 3, H, W)."""
    if isinstance(backbone, ConvGrid):
        grid: torch.Tensor = backbone(pixels)
        return grid
    features: torch.Tensor = backbone(pixel_values=pixels).last_hidden_state
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


def interpolated(times: torch.Tensor, frames: int) -> torch.Tensor:
    """Embeddings (F, C) of the times (i + 0.5) / F of a clip, from a table (max_frames, C) of as many times."""
    if frames == len(times):
        return times
    table = functional.interpolate(times.float().T[None], size=frames, mode="linear", align_corners=False)
    return table[0].T.to(times.dtype)
