"""The single-stream transformer (Oscar's form): words and the regions of a picture in one sequence, or either alone.

Letters: B items, F frames (1 for an image), V regions an item (F times those of a frame), C their width, L words,
  W width of the stream, H W pixels.

  region = dropout(LayerNorm(feature E_f + box E_b + place + time))    feature: of the vision backbone, per cell
  word   = the text backbone's own embeddings: dropout(LayerNorm(word + position + segment))
  states = transformer([words | regions]), all looking at all, padding at neither place looked at
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from encoders.architectures.base import RetrievalConfig
from encoders.backbones import build_backbone
from encoders.layers import Block
from encoders.towers import averaged, build_vision, grid_features, interpolated
from schemas.errors import ModelError

BOX = 6
"""Values of a box: x0, y0, x1, y1, w, h, each as a share of the picture."""

MOST_SPECIAL = 5
"""Tokens of a vision backbone before those of its grid: [CLS], a distillation token or up to four registers."""


class SingleStreamConfig(RetrievalConfig):  # type: ignore[no-untyped-call]
    """See RetrievalConfig; the stream beside it.

    Attributes:
      stream: "backbone", the layers of the text encoder, or "blocks", pre-norm layers of our own over its embeddings.
      stream_layers, stream_heads: of "blocks".
      stream_dropout: of "blocks" and of regions.
    """

    stream: str = "backbone"
    stream_layers: int = 4
    stream_heads: int = 4
    stream_dropout: float = 0.0


class SingleStream(nn.Module):
    """Embeddings of words and regions, and one transformer for both."""

    def __init__(self, config: SingleStreamConfig) -> None:
        """Builds it untrained.

        Raises:
          ModelError: the text encoder is not BERT-like, or its tokenizer has no [CLS].
        """
        super().__init__()
        if config.text_config is None:
            raise ModelError("single stream: text_config: expected the config of a BERT-like text encoder, got none")
        if config.cls_token_id is None:
            raise ModelError("single stream: cls_token_id: expected the [CLS] of a BERT-like tokenizer, got none")
        ours = config.stream == "blocks"
        # Layers that nothing reads are not carried.
        self.text: PreTrainedModel = build_backbone(config.text_config | ({"num_hidden_layers": 0} if ours else {}))
        for part in ("embeddings", "encoder"):
            if not hasattr(self.text, part):
                kind = config.text_config.get("model_type")
                raise ModelError(f"single stream: expected a BERT-like text encoder, got {kind}, which has no {part}")
        width = int(self.text.config.hidden_size)
        self.width, self.cls_token_id = width, int(config.cls_token_id)
        unused = {"vision_top": 0, "visual_pool": "attention", "text_layers": [], "text_norm": "none", "head_hidden": 0}
        for name, usual in unused.items():
            given = getattr(config, name)
            if (list(given) if isinstance(given, tuple) else given) != usual:
                raise ModelError(f"single stream: {name}: has no such part, expected {usual!r}, got {given!r}")
        self.vision = build_vision(config)
        self.vision_layers, self.side = tuple(config.vision_layers), config.vision_side
        self.visual_dropout = nn.Dropout1d(config.visual_dropout)
        self.enter = nn.Linear(config.backbone_width, width)
        # A linear layer of [feature | box], as in Oscar, in two parts: so each starts on a scale of its own. Shares of
        # a picture vary by 0.3, so twice the scale of places brings boxes onto it.
        self.box = nn.Parameter(torch.empty(BOX, width).normal_(std=2 * config.position_std))
        self.space = _table(config.frame_tokens, width, config.position_std) if config.spatial_positions else None
        self.time = _table(config.max_frames, width, config.position_std) if config.max_frames else None
        self.enter_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.stream_dropout)
        self.blocks: nn.ModuleList | None = None
        if ours:
            self.blocks = nn.ModuleList(
                Block(width, config.stream_heads, dropout=config.stream_dropout) for _ in range(config.stream_layers)
            )
            self.norm = nn.LayerNorm(width)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the vision backbone makes of frames (B, 3, H, W): (B, V, C)."""
        return grid_features(self.vision, pixels, self.vision_layers)

    def words(self, ids: torch.Tensor, segment: int = 0) -> torch.Tensor:
        """Input embeddings (B, L, W) of word ids int64 (B, L), whose positions begin at 0.

        Raises:
          ModelError: the text encoder has no such segment.
        """
        segments = int(getattr(self.text.config, "type_vocab_size", 1))
        if segment >= segments:
            raise ModelError(f"single stream: expected a segment below {segments}, got {segment}")
        embedded: torch.Tensor = self.text.embeddings(  # type: ignore[operator]
            input_ids=ids, token_type_ids=torch.full_like(ids, segment)
        )
        return embedded

    def regions(self, visual: torch.Tensor) -> torch.Tensor:
        """Input embeddings (B, V, W) of pixels (B, F, 3, H, W) or of backbone features (B, F, V/F, C).

        No text changes them, so they are what the slow side needs of an item.
        """
        features = visual
        if visual.ndim == 5:
            features = self.features(visual.flatten(0, 1)).unflatten(0, visual.shape[:2])  # type: ignore[no-untyped-call]
        features = averaged(features, self.side)
        frames, cells = features.shape[1:3]
        if self.visual_dropout.p:
            channels_first = features.flatten(0, 1).transpose(1, 2)  # Dropout1d hides a channel in all regions
            features = self.visual_dropout(channels_first).transpose(1, 2).unflatten(0, features.shape[:2])
        tokens = self.enter(features) + boxes(cells).to(self.box) @ self.box
        if self.space is not None:
            tokens = tokens + self.space
        if self.time is not None and frames > 1:
            tokens = tokens + interpolated(self.time, frames)[:, None, :]
        out: torch.Tensor = self.dropout(self.enter_norm(tokens.flatten(1, 2)))
        return out

    def alone(
        self, regions: torch.Tensor, region_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States and mask, as forward, of a picture alone: [CLS], then its regions."""
        start = torch.full((len(regions), 1), self.cls_token_id, device=regions.device)
        return self(self.words(start), torch.ones_like(start, dtype=torch.bool), regions, region_mask)  # type: ignore[no-any-return]

    def beside(
        self, words: torch.Tensor, mask: torch.Tensor, groups: Sequence[torch.Tensor], rows: torch.Tensor
    ) -> torch.Tensor:
        """States of words (P, L, W) that were read beside pictures.

        Images and clips are read apart: padded to the length of a clip, an image would cost as much as one.

        Args:
          words, mask: (P, L, W) of `words`, and bool (P, L).
          groups: regions (B_g, V_g, W).
          rows: int64 (P,), the picture of each text, counted through all groups.
        """
        states, places, first = [], [], 0
        for group in groups:
            here = ((rows >= first) & (rows < first + len(group))).nonzero()[:, 0]
            states.append(self(words[here], mask[here], group[rows[here] - first])[0][:, : words.shape[1]])
            places.append(here)
            first += len(group)
        return torch.cat(states)[torch.cat(places).argsort()]

    def forward(
        self,
        words: torch.Tensor | None = None,
        word_mask: torch.Tensor | None = None,
        regions: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads words, regions, or both in one sequence, words first.

        Args:
          words, word_mask: (B, L, W) of `words`, and bool (B, L), True at words; no mask: all are.
          regions, region_mask: (B, V, W) of `regions`, and bool (B, V); no mask: all are.

        Returns:
          States (B, L + V, W) and their mask bool (B, L + V).

        Raises:
          ModelError: neither is given.
        """
        given = [(x, mask) for x, mask in ((words, word_mask), (regions, region_mask)) if x is not None]
        if not given:
            raise ModelError("single stream: expected words, regions or both, got neither")
        x = torch.cat([part for part, _ in given], 1)
        mask = torch.cat([_or_all(part, mask) for part, mask in given], 1)
        if self.blocks is not None:
            for block in self.blocks:
                x = block(x, mask)
            return self.norm(x), mask
        if not len(x):  # transformers cannot reshape no rows
            return x, mask
        # Additive, in numbers: a mask of bools leaks padding where attention is written out ("eager").
        bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, torch.finfo(x.dtype).min)
        return self.text.encoder(x, attention_mask=bias[:, None, None, :]).last_hidden_state, mask  # type: ignore[operator]


def boxes(cells: int) -> torch.Tensor:
    """Boxes float32 (V, 6) of the tokens of one frame: a square grid, row by row; tokens before it see the whole.

    Raises:
      ModelError: the tokens are no square grid.
    """
    side = math.isqrt(cells)
    special = cells - side * side
    if special > MOST_SPECIAL:
        raise ModelError(f"regions: expected the cells of a square grid, got {cells} tokens of a frame")
    edge = torch.arange(side) / side
    y0, x0 = (axis.flatten() for axis in torch.meshgrid(edge, edge, indexing="ij"))
    share = torch.full_like(x0, 1 / side)
    grid = torch.stack([x0, y0, x0 + share, y0 + share, share, share], 1)
    return torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.0]]).expand(special, -1), grid])


def _table(rows: int, width: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, width).normal_(std=std))


def _or_all(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
