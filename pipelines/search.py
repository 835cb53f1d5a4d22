"""Answers a text query from a published generation: search fast, look again slowly, in well under a second."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.evaluate.gallery import Gallery, open_gallery
from pipelines.evaluate.published import Published, published
from pipelines.reindex.publish import current, refuse_unknown
from pipelines.rerank.fusion import Pairs, fuse, rank
from schemas.configs import DatasetConfig
from schemas.embeddings import VECTOR
from schemas.errors import ConfigError, InputError, SampleError, StaleError
from schemas.layout import Layout
from schemas.manifests import Generation
from schemas.query_logs import normalise

if TYPE_CHECKING:
    from encoders.base import DualEncoder, PairScorer
    from pipelines.index.coarse_to_fine import CoarseToFine
    from pipelines.index.search import Searcher

CELL = (264, 198)
"""Width and height of a picture on the contact sheet, in pixels."""

_COLUMNS = 5
_TEXT_PX = 58
_GAP_PX = 14
_PAPER, _PANEL, _INK, _MUTED = "#ffffff", "#f3f4f6", "#1b2026", "#667280"


@dataclass(frozen=True, slots=True)
class Answer:
    """One item that answers a query.

    Attributes:
      rank: from 1.
      item_id, key, shard, modality, captions: of the item; `shard` without folders.
      fast_score: inner product of the vectors.
      slow_score: of the pair; None when it was not scored.
      score: what `rank` sorts by: slow + beta * fast, or the fast score without reranking.
    """

    rank: int
    item_id: int
    key: str
    shard: str
    modality: str
    captions: tuple[str, ...]
    fast_score: float
    slow_score: float | None
    score: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Snapshot:
    """An open generation. Answering changes nothing in it, so one serves all threads.

    Attributes:
      published: the generation and its manifests.
      gallery: its items.
      searcher: its index, memory-mapped.
      levels: the search through it and the levels above; None where it holds the finest level.
      encoder: the fast side.
      scorer: the slow side; None where the generation was not reranked.
    """

    published: Published
    gallery: Gallery
    searcher: "Searcher"
    levels: "CoarseToFine | None"
    encoder: "DualEncoder"
    scorer: "PairScorer | None"

    @property
    def config(self) -> DatasetConfig:
        """What the generation was made with."""
        return self.published.config

    def answer(self, text: str, k: int = 10, *, rerank: bool = True) -> list[Answer]:
        """The k best items for a text, best first; the same order as the batch job's for the same text.

        Args:
          rerank: look at the first `rerank.depth` candidates with the slow side. What lies deeper follows them
            in the order of the fast side.

        Raises:
          ConfigError: an empty text, or k below 1.
          StaleError, InputError: a file of the generation is gone or was changed.
        """
        if not normalise(text):
            raise ConfigError("query: expected a text, got none")
        if k < 1:
            raise ConfigError(f"k: expected 1 or more, got {k}")
        scorer = self.scorer if rerank else None
        depth = self.config.rerank.depth if scorer else 0
        ids, fast = self._candidates(text, max(k, depth))
        slow = np.full(len(ids), np.nan, np.float32)
        if scorer:
            slow[:depth] = self._slow_scores(scorer, text, ids[:depth])
        fast_ranks = np.arange(1, len(ids) + 1, dtype=np.int32)
        pairs = Pairs(np.zeros(len(ids), np.int64), ids, fast_ranks, fast, slow)
        ranked = rank(pairs, fuse(pairs, self.published.beta) if scorer else fast)
        best = ranked.order[:k]
        rows = self.gallery.rows(ids[best], ["key", "shard", "modality", "captions"]).to_pylist()
        return [
            Answer(
                rank=number,
                item_id=int(ids[place]),
                key=row["key"],
                shard=row["shard"],
                modality=row["modality"],
                captions=tuple(row["captions"]),
                fast_score=float(fast[place]),
                slow_score=None if np.isnan(slow[place]) else float(slow[place]),
                score=float(score),
            )
            for number, (place, row, score) in enumerate(zip(best, rows, ranked.score, strict=False), start=1)
        ]

    def encode(self, text: str) -> np.ndarray:
        """The vector of a text, float32 (1, D), made by the function that encodes the log."""
        return self._vectors(text)[VECTOR]

    def _vectors(self, text: str) -> dict[str, np.ndarray]:
        """Of all levels by column, each float32 (1, width)."""
        from pipelines.embed.queries import encode_texts

        return encode_texts(self.encoder, [text.strip()], lanes=1)

    def pictures(self, answers: Sequence[Answer]) -> list[np.ndarray | None]:
        """What the answers look like, uint8 (H, W, 3) within `CELL`; of a clip the middle frame; None where gone."""
        from encoders.decoding import DecodeLimits
        from pipelines.evaluate.thumbnails import picture

        ids = np.array([answer.item_id for answer in answers], np.int64)
        sizes = self.gallery.rows(ids, ["width", "height"]).to_pylist()
        limits = DecodeLimits.of(self.config.embed)
        found: list[np.ndarray | None] = []
        for data, size in zip(self.gallery.files(ids, self.config.embed), sizes, strict=True):
            try:
                if isinstance(data, SampleError):
                    raise data
                found.append(picture(data, (size["width"], size["height"]), limits=limits, box=CELL, frames=1)[0])
            except SampleError:
                found.append(None)  # shown as an empty cell
        return found

    def contact_sheet(self, answers: Sequence[Answer]) -> bytes:
        """The answers as one PNG."""
        return contact_sheet(answers, self.pictures(answers))

    def _candidates(self, text: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 (n,) and exact fast scores float32 (n,), best first, as the candidates stage finds them.

        From coarse to fine, more than the last shortlist holds may add items above those of the stage.
        """
        from pipelines.index.candidates import LEAST_DEPTH, OVERFETCH
        from pipelines.index.exact import rescore
        from pipelines.index.parts import Block
        from schemas.parquet import vectors

        found = self._vectors(text)
        vector = found[VECTOR]
        # The batch job's depth at least: what is fetched beyond it decides ties and, in compressed kinds, order.
        depth = max(count, self.config.rerank.depth, LEAST_DEPTH)
        if self.levels is not None and self.published.index.levels is not None:
            columns = self.published.index.levels.columns
            scores, ids = self.levels.search([found[column] for column in columns], depth)
            return ids[0, :count], scores[0, :count]
        _, ids = self.searcher.search(vector, depth * (1 if self.searcher.keeps_whole_vectors else OVERFETCH))
        block = Block(np.sort(ids[0]), vectors(self.gallery.rows(np.sort(ids[0]), [VECTOR]).column(VECTOR)))
        scores, ids = rescore([block], vector, ids)
        return ids[0, :count], scores[0, :count]

    def _slow_scores(self, scorer: "PairScorer", text: str, ids: np.ndarray) -> np.ndarray:
        """Slow scores float32 (n,); NaN where the picture cannot be read."""
        from pipelines.embed.lanes import Lanes, cores
        from pipelines.rerank.pictures import Item
        from pipelines.rerank.scoring import GroupScorer, Wanted, compose

        config = self.config
        columns = ["item_id", "key", "position", "offset", "size", "content_sha256", "modality"]
        items = [Item(**row) for row in self.gallery.rows(ids, columns).to_pylist()]
        wanted = Wanted(items, [text.strip()] * len(items), np.arange(len(items) + 1))
        # One group a core: the wait is that of the slowest, not the sum.
        share = max(1, -(-len(items) // cores()))
        sizes = config.rerank.model_copy(
            update={"batch_items": min(share, config.rerank.batch_items), "batch_pairs": 1}
        )
        files = self.gallery.files(ids, config.embed)
        work = GroupScorer(scorer, wanted, rerank=config.rerank, embed=config.embed)
        scores = np.full(len(items), np.nan, np.float32)
        with Lanes(None if scorer.device.type == "cpu" else 1) as lanes:
            for scored in lanes.map(work, compose(files, wanted, rerank=sizes, frames=work.frames)):
                scores[scored.pairs] = scored.scores
        return scores


def open_generation(layout: Layout, number: int | None = None) -> Snapshot:
    """Loads what answering needs: the index memory-mapped, ids of the items, both models.

    Args:
      number: of the generation; None: the one being served.

    Raises:
      InputError: nothing was published, there is no such generation, or a file of it is missing or damaged.
      StaleError: a model on this machine is not the one the generation was made with.
      ModelError: a model cannot be loaded.
    """
    from encoders.precision import pinned
    from encoders.registry import load_scorer
    from pipelines.index.levels import open_coarse_to_fine
    from pipelines.index.search import open_index

    state = published(layout, read_generation(layout, number))
    encoder = open_encoder(layout, number)
    scorer = None
    if state.scorer is not None and state.rankings is not None and state.rankings.scorer is not None:
        scorer = load_scorer(pinned(state.scorer, layout), layout=layout)
        _refuse_other("scorer", state.scorer.path, scorer.fingerprint, state.rankings.scorer)
    index_url = state.url(state.generation.index)
    searcher = open_index(index_url)
    levels = open_coarse_to_fine(index_url, searcher)
    gallery = open_gallery([state.url(part) for part in state.generation.embeddings])
    return Snapshot(state, gallery, searcher, levels, encoder, scorer)


def open_encoder(layout: Layout, number: int | None = None) -> "DualEncoder":
    """The fast side of a generation.

    Errors as `open_generation`.
    """
    from encoders.precision import pinned
    from encoders.registry import load_dual

    state = published(layout, read_generation(layout, number))
    encoder = load_dual(pinned(state.encoder, layout), layout=layout)
    _refuse_other("encoder", state.encoder.path, encoder.fingerprint, state.index.encoder)
    return encoder


def read_generation(layout: Layout, number: int | None = None) -> Generation:
    """The manifest of a generation.

    Args:
      number: None: the one being served.

    Raises:
      InputError: nothing was published yet, or there is no such generation.
    """
    if number is not None:
        refuse_unknown(layout, number)
    else:
        number = current(layout)
    if number is None:
        raise InputError(f"{layout.current()}: nothing is published yet; run: fastslow reindex {layout.dataset}")
    return Generation.read(layout.generation(number))


def _refuse_other(side: str, path: str, here: str, made_with: str) -> None:
    if here != made_with:
        raise StaleError(
            f"{side} {path}: its fingerprint here is {here[:16]}, the generation was made with {made_with[:16]}; "
            "scores would not be comparable. Put the old model back, or index again"
        )


def contact_sheet(answers: Sequence[Answer], pictures: Sequence[np.ndarray | None]) -> bytes:
    """A PNG with a picture for every answer: rank and scores, caption and key under each.

    Args:
      pictures: uint8 (H, W, 3) within `CELL`, None for an empty cell; one for each answer.
    """
    from PIL import Image, ImageDraw

    columns = min(_COLUMNS, max(1, len(answers)))
    rows = max(1, -(-len(answers) // columns))
    width, height = CELL[0] + _GAP_PX, CELL[1] + _TEXT_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (answer, pixels) in enumerate(zip(answers, pictures, strict=True)):
        left = _GAP_PX + number % columns * width
        top = _GAP_PX + number // columns * height
        draw.rectangle((left, top, left + CELL[0] - 1, top + CELL[1] - 1), fill=_PANEL)
        if pixels is None:
            draw.text((left + CELL[0] / 2, top + CELL[1] / 2), "no picture", fill=_MUTED, font=_font(13), anchor="mm")
        else:
            shown = _enlarged(Image.fromarray(pixels))
            sheet.paste(shown, (left + (CELL[0] - shown.width) // 2, top + (CELL[1] - shown.height) // 2))
        _write_under(draw, answer, left, top + CELL[1] + 5)
    data = io.BytesIO()
    sheet.save(data, "PNG", optimize=True)
    return data.getvalue()


def _enlarged(image: Any) -> Any:
    """Small pictures grow until they touch the cell; decoding never enlarges."""
    scale = min(CELL[0] / image.width, CELL[1] / image.height)
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale)))) if scale > 1 else image


def _write_under(draw: Any, answer: Answer, left: int, top: int) -> None:
    scores = f"fast {answer.fast_score:.3f}"
    if answer.slow_score is not None:
        scores = f"{answer.score:.3f} · slow {answer.slow_score:.3f} · {scores}"
    draw.text((left, top), str(answer.rank), fill=_INK, font=_font(15))
    draw.text(
        (left + CELL[0], top + 3), _fitting(scores, _font(11), CELL[0] - 30), fill=_INK, font=_font(11), anchor="ra"
    )
    caption = answer.captions[0] if answer.captions else ""
    for line, text, colour in ((20, caption, _INK), (37, answer.key, _MUTED)):
        draw.text((left, top + line), _fitting(text, _font(12), CELL[0]), fill=colour, font=_font(12))


def _fitting(text: str, font: Any, width: int) -> str:
    """A text on one line, cut where it would be wider than `width` pixels."""
    text = " ".join(text[:300].split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _font(size: int) -> Any:
    """Pillow's own typeface, the same on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
