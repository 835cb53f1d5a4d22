"""What a frozen text tower makes of the training captions, kept in memory: read once instead of once an epoch."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerFast

from encoders.training.batches import tokenise


class TextMemo:
    """States of known texts, float16, found by their token ids. Memory: 2 bytes a token and channel."""

    def __init__(
        self,
        read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        tokenizer: PreTrainedTokenizerFast,
        texts: Sequence[str],
        *,
        max_words: int,
        device: torch.device,
        batch_size: int = 256,
    ) -> None:
        """Reads all texts.

        Args:
          read: states (B, L, T) of ids int64 (B, L) and mask bool (B, L).
          texts: distinct ones are read once.
          max_words: longest text in tokens.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # little padding
        self._start: dict[bytes, int] = {}
        states, total = [], 0
        for first in range(0, len(distinct), batch_size):
            part = distinct[first : first + batch_size]
            ids, mask = tokenise(tokenizer, part, max_words=max_words, device=device)
            states.append(read(ids, mask)[mask].half())
            for key, length in _keys(ids, mask):
                self._start[key] = total
                total += length
        with torch.autocast(device.type, enabled=False):  # on a CPU it knows no float16
            self._states = torch.cat(states) if states else torch.empty(0, 0, device=device)

    def find(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """States float32 (B, L, T), zeros at padding; None where one of the texts is not known."""
        starts = [self._start.get(key) for key, _ in _keys(ids, mask)]
        if any(start is None for start in starts):
            return None
        place = torch.tensor(starts, device=ids.device)[:, None] + torch.arange(ids.shape[1], device=ids.device)
        return self._states[place.clamp(max=len(self._states) - 1)].float() * mask[:, :, None]


def _keys(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[bytes, int]]:
    """The tokens of each text without its padding, and how many they are."""
    rows, lengths = ids.cpu().numpy(), mask.sum(1).tolist()
    return [(row[:length].tobytes(), length) for row, length in zip(rows, lengths, strict=True)]
