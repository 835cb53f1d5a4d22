"""Which files make up a model's folder, and that weights come as safetensors only."""

import json
from pathlib import Path
from typing import Any

from schemas.errors import ModelError

WEIGHTS = "model.safetensors"
SHARDED_WEIGHTS = "model.safetensors.index.json"

PREPROCESSING_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)
"""What decides, besides the weights, which vector a text or a picture gets."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
"""One of these holds the words; without any, transformers would make up an empty tokenizer."""

PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")

CONVERT = (
    "give a `revision` that has them (hub repositories often keep a converted copy under refs/pr/<number>), or convert "
    "the folder once, where you trust its origin, with save_pretrained of a current transformers"
)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files a model is loaded from, in a fixed order, the index of a sharded one first.

    Raises:
      ModelError: there are none, one is missing, or there are only pickles, which can run code when opened.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / SHARDED_WEIGHTS
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise ModelError(f"{index}: expected the weight files it names, missing: {', '.join(missing) or 'all'}")
        return [index, *(folder / name for name in names)]
    pickles = sorted(path.name for pattern in PICKLED_WEIGHTS for path in folder.glob(pattern))
    if pickles:
        raise ModelError(f"{folder}: expected safetensors weights, got only pickles ({', '.join(pickles)}); {CONVERT}")
    raise ModelError(f"{folder}: expected {WEIGHTS} (or {SHARDED_WEIGHTS} and its parts), found neither")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model.

    Raises:
      ModelError: the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: not found") from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
