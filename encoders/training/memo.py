"""What a text tower makes of many texts, kept in memory: each is read once, not once an epoch or a batch of pairs."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerFast

from encoders.training.batches import tokenise
from schemas.errors import ModelError


class TextMemo:
    """States of known texts, found by their token ids. Memory: one number a token and channel."""

    def __init__(
        self,
        read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        tokenizer: PreTrainedTokenizerFast,
        texts: Sequence[str],
        *,
        max_words: int,
        device: torch.device,
        dtype: torch.dtype = torch.float16,
        batch_size: int = 256,
    ) -> None:
        """Reads all texts.

        Args:
          read: states (B, L, T) of ids int64 (B, L) and mask bool (B, L).
          texts: distinct ones are read once.
          max_words: longest text in tokens.
          dtype: of what is kept.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # little padding
        self._start: dict[bytes, int] = {}
        states, total = [], 0
        for first in range(0, len(distinct), batch_size):
            part = distinct[first : first + batch_size]
            ids, mask = tokenise(tokenizer, part, max_words=max_words, device=device)
            states.append(read(ids, mask)[mask].to(dtype))
            for key, length in _keys(ids, mask):
                self._start[key] = total
                total += length
        with torch.autocast(device.type, enabled=False):  # on a CPU it knows no float16
            self._states = torch.cat(states) if states else torch.empty(0, 0, device=device)

    def find(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """States float32 or bfloat16 (B, L, T), zeros at padding; None where one of the texts is not known."""
        starts = [self._start.get(key) for key, _ in _keys(ids, mask)]
        if any(start is None for start in starts):
            return None
        place = torch.tensor(starts, device=ids.device)[:, None] + torch.arange(ids.shape[1], device=ids.device)
        found = self._states[place.clamp(max=len(self._states) - 1)] * mask[:, :, None]
        return found.float() if found.dtype == torch.float16 else found

    def known(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`find`, where all texts must be there.

        Raises:
          ModelError: one is not.
        """
        found = self.find(ids, mask)
        if found is None:
            raise ModelError("expected texts that have been read before, got another")
        return found


def _keys(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[bytes, int]]:
    """The tokens of each text without its padding, and how many they are."""
    rows, lengths = ids.cpu().numpy(), mask.sum(1).tolist()
    return [(row[:length].tobytes(), length) for row, length in zip(rows, lengths, strict=True)]
