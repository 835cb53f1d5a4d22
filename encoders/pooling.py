"""One state of a whole text, pooled from those of its words.

Letters: B texts, L words, T width of the text tower.
"""

from typing import Any

import torch
from torch import nn

from encoders.layers import Standardise, masked_mean


class TextPool(nn.Module):
    """[CLS], or the mean of the words; of several layers side by side where the config names them.

    Attributes:
      width: of what comes out.
    """

    def __init__(self, config: Any, text_width: int) -> None:
        """Builds it.

        Args:
          config: a RetrievalConfig.
          text_width: T.
        """
        super().__init__()
        self.kind = config.text_pool
        self.width = text_width * (1 + len(config.text_layers))
        self.standardise = Standardise(self.width) if config.text_norm == "batch" else None

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, width) of states (B, L, width); `mask` bool (B, L), True at words."""
        pooled = states[:, 0] if self.kind == "cls" else masked_mean(states, mask)
        return pooled if self.standardise is None else self.standardise(pooled)
