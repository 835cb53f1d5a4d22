"""Keeps what a checkpoint said of a gallery beside the checkpoints, for all pairs take minutes and runs are killed."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.claims.gallery import Gallery
from pipelines.claims.scores import Scores
from schemas.commits import publish_bytes

COLUMNS = ("texts", "items")


def mark(fingerprint: str, gallery: Gallery) -> str:
    """What scores are of: the weights, and every caption and picture of the gallery, in order.

    Args:
      fingerprint: of the weights, as their encoder says it.
    """
    told = hashlib.sha256(json.dumps([fingerprint, gallery.captions]).encode())
    told.update(gallery.targets.tobytes())
    told.update(gallery.pixels.numpy().tobytes())
    return told.hexdigest()


def write(path: Path, of: str, scores: Scores) -> None:
    """Keeps all pairs; `of` is their mark."""
    said = {"of": of, "seconds": scores.seconds}
    arrays = {"targets": scores.targets, "pairs": scores.slow, "said": np.array(json.dumps(said))}
    for kind in COLUMNS:
        arrays |= {f"{kind}.{name}": vectors for name, vectors in getattr(scores, kind).items()}
    held = io.BytesIO()
    np.savez(held, allow_pickle=False, **arrays)
    publish_bytes(held.getvalue(), str(path))


def read(path: Path, of: str, gallery: Gallery) -> Scores | None:
    """What was kept; None where there is nothing, or it is of other weights or of another gallery."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as held:
        found = {name: held[name] for name in held.files}
    said = json.loads(str(found["said"]))
    if said["of"] != of:
        return None
    texts, items = (
        {name.partition(".")[2]: one for name, one in found.items() if name.startswith(f"{kind}.")} for kind in COLUMNS
    )
    return Scores(texts, items, found["targets"], found["pairs"], said["seconds"], gallery.subjects)


def with_slow(fast: Scores, other: Scores) -> Scores:
    """The vectors of one checkpoint, and all pairs as another one's slow side scores them, of the same gallery."""
    spent = {name: other.seconds[name] for name in ("caches", "pairs")}
    return replace(fast, pairs=other.slow, seconds=fast.seconds | spent)
