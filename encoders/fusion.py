"""Fusion layers on top of a whole text tower, and their heads: the cross encoder ALBEF's way.

Source: salesforce/ALBEF, whose fusion layers are the upper half of one BERT; here they lie on top of a whole one.
Letters: B texts, P pairs, V tokens a picture, L words, C width of visual tokens, T width of text.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from encoders.architectures.base import RetrievalConfig, RetrievalModel
from encoders.layers import Block, in_float32
from encoders.towers import VisualTower


class FusionConfig(RetrievalConfig):  # type: ignore[no-untyped-call]
    """See RetrievalConfig; the fusion beside it.

    Attributes:
      match_score: the score is l1 - l0 ("difference") or l1 ("match").
    """

    fusion_layers: int = 3
    fusion_heads: int = 4
    fusion_dropout: float = 0.0
    match_score: str = "difference"


class FusionModel(RetrievalModel):  # type: ignore[no-untyped-call]
    """A model with a text tower `text`, a vision tower `vision`, and fusion layers as its slow side."""

    config_class = FusionConfig

    text: PreTrainedModel
    vision: VisualTower

    def add_fusion(self, text_width: int) -> None:
        """Builds layers and heads; called once, by the constructor of the model.

        Args:
          text_width: T.
        """
        config = self.config
        self.fusion_blocks = nn.ModuleList(
            Block(text_width, config.fusion_heads, config.visual_width, config.fusion_dropout)
            for _ in range(config.fusion_layers)
        )
        self.fusion_norm = nn.LayerNorm(text_width)
        self.match_head = nn.Linear(text_width, 2)
        self.word_head = nn.Linear(text_width, text_width)  # then compared with the word embeddings
        self.word_bias = nn.Parameter(torch.zeros(int(self.text.config.vocab_size)))

    def visual_cache(self, visual: torch.Tensor) -> torch.Tensor:
        """See RetrievalModel: the tokens."""
        tokens: torch.Tensor = self.vision(visual)
        return tokens

    def pair_scores(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        cache: torch.Tensor,
        cache_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See RetrievalModel; each text is read once."""
        return self.scores_of_states(self.text_states(ids, mask), mask, rows, cache, cache_mask)

    def scores_of_states(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        cache: torch.Tensor,
        cache_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`pair_scores` of texts that have been read: states (T, L, W)."""
        return self.match_score(self.match_logits(self.fuse(states[rows], mask[rows], cache, cache_mask)))

    def fuse(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        tokens: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """States (P, L, T) of words that have looked at each other, in both directions, and at a picture.

        Args:
          states, mask: (P, L, T) and bool (P, L), of the text tower.
          tokens, token_mask: (P, V, C) and bool (P, V), of the vision tower; or fewer rows, and
          rows: int64 (P,), which picture each text looks at.
        """
        states = states[..., : self.match_head.in_features]  # of layers that were joined, the last
        for block in self.fusion_blocks:
            states = block(states, mask, tokens, token_mask, rows)
        fused: torch.Tensor = self.fusion_norm(states)
        return fused

    def match_logits(self, fused: torch.Tensor) -> torch.Tensor:
        """(P, 2) from fused states (P, L, T): no, yes; in float32, for in bfloat16 many pairs would tie."""
        return in_float32(self.match_head, fused[:, 0])

    def match_score(self, logits: torch.Tensor) -> torch.Tensor:
        """(P,) from (P, 2)."""
        return logits[:, 1] - logits[:, 0] if self.config.match_score == "difference" else logits[:, 1]

    def word_logits(self, fused: torch.Tensor) -> torch.Tensor:
        """(P, L, vocabulary) from fused states (P, L, T)."""
        words = functional.normalize(self.text.get_input_embeddings().weight, dim=-1)  # type: ignore[arg-type]
        return functional.linear(functional.gelu(self.word_head(fused)), words) + self.word_bias
