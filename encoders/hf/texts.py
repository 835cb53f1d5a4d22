"""Strings -> token ids, as a model's own tokenizer makes them, from several threads at once."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer

from encoders.model_files import TOKENIZER_FILES, read_json
from schemas.errors import ModelError


class Texts:
    """A tokenizer with its padding and length settled.

    Hugging Face tokenizers keep padding and truncation as state of the shared Rust object and set it within each
    call; versions of it raise "Already borrowed" where two threads do so at once (0.23.3 was not seen to). Hence the
    lock; tokenizing is microseconds a text.
    """

    def __init__(self, folder: Path, *, limit: int, padding: Literal["longest", "max_length"]) -> None:
        """Loads the tokenizer of a model folder.

        Args:
          limit: most tokens the model takes, special ones included.
          padding: to the longest text of the batch, or always to `limit`.

        Raises:
          ModelError: there is none, or it needs a library that is not installed.
        """
        _check_files(folder)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: cannot load its tokenizer: {error}") from error
        self.limit = min(limit, int(self.tokenizer.model_max_length))
        self.padding = padding
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str], *, device: torch.device) -> dict[str, torch.Tensor]:
        """`input_ids` and, where the model is used with one, `attention_mask`.

        Each int64 (B, T), T at most `limit`; what is longer is cut, the end token kept.
        """
        clean = [
            text.encode("utf-8", "replace").decode("utf-8") for text in texts
        ]  # lone surrogates break the Rust side
        with self._lock:
            found = self.tokenizer(
                clean,
                padding=self.padding,
                truncation=True,
                max_length=self.limit,
                return_tensors="pt",
            )
        # SigLIP was trained without a mask, and its tokenizers say so by not returning one.
        return {name: found[name].to(device) for name in ("input_ids", "attention_mask") if name in found}


def _check_files(folder: Path) -> None:
    """Refuses what transformers would silently replace by another tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{folder}: expected a tokenizer (one of {', '.join(TOKENIZER_FILES)}), found none")
    path = folder / "tokenizer_config.json"
    if not path.is_file() or read_json(path).get("tokenizer_class") != "SiglipTokenizer":
        return
    try:  # SigLIP's strips punctuation in Python
        import sentencepiece  # noqa: F401
    except ImportError:
        raise ModelError(
            f"{folder}: its tokenizer needs the sentencepiece package; pip install sentencepiece"
        ) from None
