"""What a text tower makes of many texts, kept in memory: each is read once, not once an epoch or a batch of pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
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
        path: Path | None = None,
    ) -> None:
        """Reads all texts, or takes what was read of them before.

        Args:
          read: states (B, L, T) of ids int64 (B, L) and mask bool (B, L).
          texts: distinct ones are read once.
          max_words: longest text in tokens.
          dtype: of what is kept; float16 where there is a path.
          path: of a .npy file that keeps it for others; it appears whole, by rename. None: only in memory.

        Raises:
          ModelError: what the file holds is not of these texts.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # little padding
        self._start: dict[bytes, int] = {}
        total = 0
        batches = [
            tokenise(tokenizer, distinct[first : first + batch_size], max_words=max_words, device=device)
            for first in range(0, len(distinct), batch_size)
        ]
        for key, length in (one for batch in batches for one in _keys(*batch)):
            self._start[key] = total
            total += length

        def states() -> torch.Tensor:
            found = [read(ids, mask)[mask].to(dtype) for ids, mask in batches]
            with torch.autocast(device.type, enabled=False):  # on a CPU it knows no float16
                return torch.cat(found) if found else torch.empty(0, 0, device=device)

        self._states = states() if path is None else _kept(path, states).to(device)
        if len(self._states) != total:
            raise ModelError(f"{path}: expected the states of {total:,} tokens, got {len(self._states):,}; remove it")

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


def _kept(path: Path, states: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What the file holds, mapped; made first where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.is_file():
            partial = path.with_name(f".{path.name}")
            with partial.open("wb") as file:
                np.save(file, states().cpu().numpy())
            partial.replace(path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _keys(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[bytes, int]]:
    """The tokens of each text without its padding, and how many they are."""
    rows, lengths = ids.cpu().numpy(), mask.sum(1).tolist()
    return [(row[:length].tobytes(), length) for row, length in zip(rows, lengths, strict=True)]
