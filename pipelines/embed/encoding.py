"""One batch of raw samples -> rows with their vectors, and rejects for what could not be decoded or encoded."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from encoders.base import DualEncoder, Vectors
from encoders.decoding import Decoded, DecodeLimits, decode
from pipelines.embed.batches import Batch
from pipelines.embed.known import Known, Seen
from schemas.configs import Embed
from schemas.digests import digest_bytes
from schemas.errors import FastslowError, ModelError, SampleError
from schemas.rejects import Reject, Stage
from schemas.samples import Modality, Sample


@dataclass(frozen=True, slots=True)
class Row:
    """An embedded sample, without its bytes.

    Attributes:
      vectors: column -> float16 (D,), L2 norm 1 before the cast.
      width, height: of the picture as stored, in pixels.
      frame_times_s: of the frames seen; empty for images.
      the others: as in `Sample`.
    """

    key: str
    shard: str
    position: int
    offset: int
    size: int
    modality: Modality
    captions: tuple[str, ...]
    metadata: str
    width: int
    height: int
    duration_s: float
    frame_times_s: tuple[float, ...]
    content_sha256: str
    vectors: dict[str, np.ndarray]


class BadVector(SampleError):
    """The model gave something that has no direction: NaN, infinity or zero."""


class BatchEncoder:
    """Decodes and encodes batches, what is known already aside; safe to call from several lanes.

    Args:
      encoder: the fast side. On a CPU lanes run it side by side; on an accelerator they take turns.
      embed: limits, frames, JPEG scaling.
      known: items that are neither decoded nor encoded again.
    """

    def __init__(self, encoder: DualEncoder, embed: Embed, known: Known | None = None) -> None:
        self._known = known.items if known is not None else {}
        self.frames = encoder.frames or embed.frames
        self._encoder = encoder
        self._scaling = embed.jpeg_scaling
        self._limits = DecodeLimits.of(embed)
        on_cpu = encoder.device.type == "cpu"
        self._turn: AbstractContextManager[object] = nullcontext() if on_cpu else Lock()
        self._pin = encoder.device.type == "cuda"

    def __call__(self, batch: Batch) -> list[tuple[int, Row | Reject]]:
        """What became of each item of the batch, under the number it came with.

        Raises:
          ModelError: the whole batch failed in the model, so that no sample is to blame.
          torch.OutOfMemoryError: one sample alone does not fit.
        """
        done: dict[int, Row | Reject] = {}
        decoded: dict[int, tuple[Sample, Decoded]] = {}
        contents: dict[int, str] = {}
        for number, item in batch.items:
            if isinstance(item, Reject):
                done[number] = item
                continue
            content = contents[number] = digest_bytes(item.data)
            seen = self._known.get(content)
            if seen is not None and self._admits(seen, item):  # else refused as any other
                done[number] = _row(item, seen, seen.vectors, content)
                continue
            try:
                picture = decode(
                    item.data,
                    suffix=item.suffix,
                    spec=self._encoder.pixels,
                    frames=self.frames,
                    limits=self._limits,
                    jpeg_scaling=self._scaling,
                )
            except SampleError as error:
                done[number] = _reject(item, "decode", error)
            else:
                decoded[number] = (item, picture)
        for numbers in _by_frames(decoded):  # content decides what is a video, so shapes may differ within a batch
            vectors = self._encode([decoded[number][1].pixels for number in numbers])
            for number, one in zip(numbers, vectors, strict=True):
                sample, picture = decoded[number]
                if isinstance(one, Exception):
                    done[number] = _reject(sample, "encode", one)
                else:
                    done[number] = _row(sample, picture, one, contents[number])
        return [(number, done[number]) for number, _ in batch.items]

    def _admits(self, seen: Seen, item: Sample) -> bool:
        return self._limits.admit(seen.modality, size_bytes=item.size, width=seen.width, height=seen.height)

    def _encode(self, pixels: Sequence[np.ndarray]) -> list[dict[str, np.ndarray] | Exception]:
        """Vectors of each item (F, H, W, 3), or what went wrong with it alone."""
        results = self._halve(torch.from_numpy(np.stack(pixels)))
        failures = [one for one in results if isinstance(one, Exception)]
        if len(results) > 1 and len(failures) == len(results):
            raise ModelError(
                f"none of {len(results)} pictures could be encoded ({type(failures[0]).__name__}: {failures[0]}); "
                "the model or the machine is at fault, not the pictures"
            ) from failures[0]
        return results

    def _halve(self, pixels: torch.Tensor) -> list[dict[str, np.ndarray] | Exception]:
        """The forward; where it fails, of each half, down to the single item to blame or the size that fits."""
        try:
            vectors = self._forward(pixels)
        except FastslowError:
            raise  # a wrong config or model, whatever the picture
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
            torch.cuda.empty_cache()
        except Exception as error:  # noqa: BLE001 (a model may raise anything; it ends as a reject or a ModelError)
            if len(pixels) == 1:
                return [error]
        else:
            return [_checked({name: values[row] for name, values in vectors.items()}) for row in range(len(pixels))]
        middle = len(pixels) // 2
        return self._halve(pixels[:middle]) + self._halve(pixels[middle:])

    def _forward(self, pixels: torch.Tensor) -> Vectors:
        if self._pin:  # copied while another lane's batch computes
            pixels = pixels.pin_memory().to(self._encoder.device, non_blocking=True)
        with self._turn:
            return self._encoder.encode_visual(pixels)


def _by_frames(decoded: dict[int, tuple[Sample, Decoded]]) -> list[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for number, (_, picture) in decoded.items():
        groups[len(picture.pixels)].append(number)
    return list(groups.values())


def _checked(vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray] | Exception:
    """One item's vectors normalised in float32, then cast to float16."""
    halves: dict[str, np.ndarray] = {}
    for name, values in vectors.items():
        exact = values.astype(np.float32)
        norm = float(np.linalg.norm(exact))
        if not np.isfinite(norm) or norm == 0.0:
            return BadVector(f"{name}: expected a finite vector that is not zero, got norm {norm}")
        halves[name] = (exact / np.float32(norm)).astype(np.float16)
    return halves


def _row(sample: Sample, picture: Decoded | Seen, vectors: dict[str, np.ndarray], content: str) -> Row:
    return Row(
        key=sample.key,
        shard=sample.shard,
        position=sample.position,
        offset=sample.offset,
        size=sample.size,
        modality=picture.modality,
        captions=sample.captions,
        metadata=sample.metadata,
        width=picture.width,
        height=picture.height,
        duration_s=picture.duration_s,
        frame_times_s=tuple(picture.frame_times_s),
        content_sha256=content,
        vectors=vectors,
    )


def _reject(sample: Sample, stage: Stage, error: Exception) -> Reject:
    return Reject(
        key=sample.key,
        shard=sample.shard,
        position=sample.position,
        offset=sample.offset,
        size=sample.size,
        stage=stage,
        error=type(error).__name__,
        message=str(error),
    )
