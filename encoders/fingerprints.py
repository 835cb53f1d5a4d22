"""The name of a model: everything that decides which vectors and scores come out of it, in one digest.

Light on purpose (no torch, no transformers): every stage asks for it before it decides whether to work at all.
"""

from importlib.metadata import version
from pathlib import Path

from encoders.model_files import PREPROCESSING_FILES, weight_files
from encoders.sources import resolve
from schemas.commits import commit_json, exists, read_json
from schemas.configs import EncoderConfig
from schemas.digests import digest_file, digest_value
from schemas.layout import Layout

ADAPTER_VERSION = 2
"""Raised when our own code gives other numbers for the same files."""


def files_digest(folder: Path, *, layout: Layout | None = None) -> str:
    """SHA-256 over a model's weights, config, preprocessing and tokenizer files, independent of where it lies.

    Args:
      folder: as `sources.resolve` gives it.
      layout: where digests of unchanged weight files are remembered (by path, size, mtime); None: read them again.

    Raises:
      ModelError: the folder has no safetensors weights.
    """
    weights = [(path.name, _file_digest(path, layout)) for path in weight_files(folder)]
    others = [(name, digest_file(str(folder / name))) for name in PREPROCESSING_FILES if (folder / name).is_file()]
    return digest_value([weights, others])


def model_fingerprint(config: EncoderConfig, dtype: str, *, layout: Layout | None = None) -> str:
    """The name of a model run in a dtype, 64 hex digits.

    Covers its files, the dtype, the major version of transformers and the version of our adapters; not the path.

    Args:
      dtype: "float32" or "bfloat16", resolved.
      layout: see `files_digest`.

    Raises:
      ModelError: the model's files cannot be found.
    """
    return digest_value(
        {
            "files": files_digest(resolve(config), layout=layout),
            "dtype": dtype,
            "transformers": version("transformers").split(".")[0],
            "adapter": ADAPTER_VERSION,
        }
    )


def _file_digest(path: Path, layout: Layout | None) -> str:
    if layout is None:
        return digest_file(str(path))
    real = path.resolve()  # snapshots of the hub's cache are links
    stat = real.stat()
    memo = layout.cache("file-digests", digest_value([str(real), stat.st_size, stat.st_mtime_ns]))
    if exists(memo):
        return str(read_json(memo)["sha256"])
    found = digest_file(str(real))
    commit_json(memo, {"sha256": found, "file": path.name})
    return found
