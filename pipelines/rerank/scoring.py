"""One group of pictures and the pairs they are in -> pair scores: each picture decoded and encoded once.

Groups are a function of the pairs alone, never of timing or of what could not be read, so that the same pairs get
the same scores to the last bit on every run.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch

from encoders.base import PairScorer
from encoders.decoding import DecodeLimits, decode
from pipelines.rerank.pictures import Item
from schemas.configs import Embed, Rerank
from schemas.errors import ModelError, SampleError


@dataclass(slots=True)
class Group:
    """Pictures of one modality that go through the scorer together.

    Attributes:
      rows: of the shard's items.
      data: their bytes, or why there are none.
      pairs: in which they are.
    """

    rows: list[int] = field(default_factory=list)
    data: list[bytes | SampleError] = field(default_factory=list)
    pairs: int = 0

    @property
    def size_bytes(self) -> int:
        """Held in memory."""
        return sum(len(one) for one in self.data if isinstance(one, bytes))


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a group.

    Attributes:
      pairs: rows of the shard's pairs, int64 (n,).
      scores: float32 (n,).
      failed: row of an item -> why it could not be decoded; its pairs have no score.
      encoded: items.
    """

    pairs: np.ndarray
    scores: np.ndarray
    failed: dict[int, SampleError]
    encoded: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The pairs of a shard.

    Attributes:
      items: by position in the shard.
      texts: one a pair.
      starts: pairs of item i are rows starts[i] to starts[i + 1]; int64 (items + 1,).
    """

    items: Sequence[Item]
    texts: Sequence[str]
    starts: np.ndarray


def compose(fetched: Iterable[bytes | SampleError], wanted: Wanted, *, rerank: Rerank, frames: int) -> Iterator[Group]:
    """Cuts the pictures of a shard into groups: whole encoder batches, as many as fill one batch of pairs.

    Args:
      fetched: one for every item, in order.
      rerank: batch sizes.
      frames: of a video, which takes the place of as many pictures.
    """
    groups = {"image": Group(), "video": Group()}
    for row, (data, item) in enumerate(zip(fetched, wanted.items, strict=True)):
        group = groups[item.modality]
        group.rows.append(row)
        group.data.append(data)
        group.pairs += int(wanted.starts[row + 1] - wanted.starts[row])
        step = _step(item.modality == "video", rerank, frames)
        if len(group.rows) % step == 0 and group.pairs >= rerank.batch_pairs:
            yield group
            groups[item.modality] = Group()
    yield from (group for group in groups.values() if group.rows)


def _step(moving: bool, rerank: Rerank, frames: int) -> int:
    return max(1, rerank.batch_items // frames) if moving else rerank.batch_items


class GroupScorer:
    """Decodes, encodes and scores groups; safe to call from several lanes.

    Args:
      scorer: the slow side. On a CPU lanes run it side by side; on an accelerator they take turns.
      embed: limits, frames, JPEG scaling, as they were for the fast side.
    """

    def __init__(self, scorer: PairScorer, wanted: Wanted, *, rerank: Rerank, embed: Embed) -> None:
        self.frames = scorer.frames or embed.frames
        self._scorer = scorer
        self._wanted = wanted
        self._rerank = rerank
        self._scaling = embed.jpeg_scaling
        self._limits = DecodeLimits.of(embed)
        self._turn: AbstractContextManager[object] = nullcontext() if scorer.device.type == "cpu" else Lock()
        distinct = list(dict.fromkeys(wanted.texts))
        self._texts = scorer.text_cache(distinct) if len(distinct) <= rerank.cached_texts else None

    def __call__(self, group: Group) -> Scored:
        """Scores all pairs of the pictures that can be decoded.

        Raises:
          ModelError: the scorer gave something that is not a finite number.
        """
        failed: dict[int, SampleError] = {}
        cached: dict[int, list[tuple[list[int], torch.Tensor]]] = {}
        moving = self._wanted.items[group.rows[0]].modality == "video"
        step = _step(moving, self._rerank, self.frames)
        for start in range(0, len(group.rows), step):
            chunk = slice(start, start + step)
            for rows, pixels in self._decoded(group.rows[chunk], group.data[chunk], failed):
                with self._turn:
                    cache = self._scorer.visual_cache(torch.from_numpy(pixels).to(self._scorer.device))
                cached.setdefault(pixels.shape[1], []).append((rows, cache))
        parts = [self._score(*_joined(some)) for some in cached.values()]
        return Scored(
            pairs=np.concatenate([pairs for pairs, _ in parts]) if parts else np.empty(0, np.int64),
            scores=np.concatenate([scores for _, scores in parts]) if parts else np.empty(0, np.float32),
            failed=failed,
            encoded=len(group.rows) - len(failed),
        )

    def _decoded(
        self, rows: Sequence[int], data: Sequence[bytes | SampleError], failed: dict[int, SampleError]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Rows and uint8 (B, F, H, W, 3) of what can be decoded; content decides what has frames."""
        shapes: dict[int, tuple[list[int], list[np.ndarray]]] = {}
        for row, one in zip(rows, data, strict=True):
            try:
                if isinstance(one, SampleError):
                    raise one
                pixels = decode(
                    one,
                    suffix="",
                    spec=self._scorer.pixels,
                    frames=self.frames,
                    limits=self._limits,
                    jpeg_scaling=self._scaling,
                ).pixels
            except SampleError as error:
                failed[row] = error
            else:
                found = shapes.setdefault(len(pixels), ([], []))
                found[0].append(row)
                found[1].append(pixels)
        for found_rows, found_pixels in shapes.values():
            yield found_rows, np.stack(found_pixels)

    def _score(self, rows: Sequence[int], cache: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the pairs, their scores) of items whose visual side (items, V, C) is there.

        Texts of like length go together, so that little of a batch is padding.
        """
        starts = self._wanted.starts
        owner = np.repeat(np.arange(len(rows)), [int(starts[row + 1] - starts[row]) for row in rows])
        pairs = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows])
        order = np.argsort([len(self._wanted.texts[pair]) for pair in pairs], kind="stable")
        pairs, owner = pairs[order], owner[order]
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), self._rerank.batch_pairs):
            some = slice(start, start + self._rerank.batch_pairs)
            texts = [self._wanted.texts[pair] for pair in pairs[some]]
            with self._turn:
                chosen = cache.index_select(0, torch.from_numpy(owner[some]).to(cache.device))
                scores[some] = self._scorer.score(texts, chosen, self._texts)
        self._refuse_bad(pairs, scores)
        return pairs, scores

    def _refuse_bad(self, pairs: np.ndarray, scores: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            pair = int(pairs[bad[0]])
            item = self._wanted.items[int(np.searchsorted(self._wanted.starts, pair, side="right")) - 1]
            raise ModelError(
                f"{item.key}: expected a finite score, got {scores[bad[0]]} ({bad.size} of {scores.size} pairs)"
            )


def _joined(chunks: Sequence[tuple[list[int], torch.Tensor]]) -> tuple[list[int], torch.Tensor]:
    rows = [row for some, _ in chunks for row in some]
    return rows, chunks[0][1] if len(chunks) == 1 else torch.cat([cache for _, cache in chunks])
