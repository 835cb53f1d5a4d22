"""Retrieve Fast, Rerank Smart: one single-stream transformer, both twin and cross encoder (Geigle et al., TACL 2022).

Source: arXiv 2103.11920 and the authors' code (UKPLab/MMT-Retrieval); the transformer is Oscar's.
Offline: the twin over regions, one vector v a picture; for reranking, its regions as they enter the transformer.
Query: the twin over the text, one vector t; the cross encoder for each of the K candidates. Words and regions meet in
  its first layer, so nothing behind its input can be stored.
Letters: B items or texts, P pairs, T distinct texts, F frames (1 for an image), V regions a picture, L words,
  W width of the stream, D embedding (W without a projection), m negatives a pair, N items of all processes.
Differs: regions are the cells of a grid, not a detector's boxes; clips: regions of all frames, with embeddings of
  their times, seen together. Switches beyond the paper, off by default: a projection, gentler twin losses, several
  negatives, hard ones chosen by the twin within the batch (the authors' variant mines the whole training set once an
  epoch), masked words (what their pretrained transformers had learnt by). Without a pretrained transformer, "words"
  is a stage of its own to learn that first.

  t = norm(mean f([CLS] x [SEP])),  v = norm(mean f([CLS] y)),  D(x, y) = 1 - t . v                 *_vectors
  z(x, y) = l1 - l0 of W_2 drop(tanh(W_1 g([CLS] x [SEP] | y)[CLS]))                                pair_scores
  JOIN ("share: all"): g = f, with SEP ("share: none") two copies
  L_BE = mean_i [D_ii - min_{j not i} D_ij + 0.1]_+ + [D_ii - min_{j not i} D_ji + 0.1]_+          task "twin"
  L_CE = mean cross entropy of (l0, l1), one mismatched pair for each that matches                  task "cross"
"""

import torch
from torch import nn
from torch.nn import functional

from encoders.architectures.base import Objective, RetrievalModel, Stage
from encoders.layers import in_float32, masked_mean
from encoders.losses import IGNORED, cosines, info_nce, masked_words, matching, triplet
from encoders.negatives import hide_words, one_side_negatives, positive_mask
from encoders.single_stream import SingleStream, SingleStreamConfig
from encoders.training.batches import Inputs
from encoders.training.gather import gather
from schemas.architectures import CooperativeLosses


class CooperativeConfig(SingleStreamConfig):
    """See SingleStreamConfig; what is shared, and the heads, beside it. The `visual_` layers are not used.

    Attributes:
      share: "all", one transformer for both sides (JOIN), or "none", one for each (SEP).
      text_pool: of texts and of pictures.
      projection: to `embedding_dim`; without one D is the width of the stream.
      match_dropout: between the pooler and the matching head.
      match_score: the score is l1 - l0 ("difference") or l1 ("match").
      temperature: fixed; of hard negatives' draw, and of the twin's loss where that is "info_nce".
    """

    model_type = "fastslow-cooperative"

    share: str = "all"
    text_pool: str = "mean"
    projection: bool = False
    match_dropout: float = 0.1
    match_score: str = "difference"
    temperature: float = 0.05


class CooperativeModel(RetrievalModel):
    """The network: one or two streams, and the heads."""

    config_class = CooperativeConfig
    base_model_prefix = "cooperative"

    STAGES = {
        "alternate": Stage(("twin", "cross")),  # a step of the optimizer each
        "sum": Stage(("both",)),
        "words": Stage(("words",), fast=False),
        "twin": Stage(("twin",)),
        "cross": Stage(("cross",)),  # behind a twin, which must be another stream: "share: none"
        "cross_only": Stage(("cross",), fast=False),  # the cross encoder without a twin, a baseline
    }
    BACKBONES = {"vision": ("stream.vision",), "text": ("stream.text",)}
    TEXT_ALONE = False

    def __init__(self, config: CooperativeConfig) -> None:
        super().__init__(config)
        self.stream = SingleStream(config)
        self.cross_stream = SingleStream(config) if config.share == "none" else None
        if self.cross_stream is not None:
            self.BACKBONES = {kind: (f"stream.{kind}", f"cross_stream.{kind}") for kind in ("vision", "text")}
        width = self.stream.width
        self.projection = nn.Linear(width, config.embedding_dim) if config.projection else None
        self.match_pool = nn.Linear(width, width)  # BERT's pooler
        self.match_dropout = nn.Dropout(config.match_dropout)
        self.match_head = nn.Linear(width, 2)
        self.word_head = nn.Linear(width, width)  # then compared with the word embeddings
        self.word_bias = nn.Parameter(torch.zeros(int(self.stream.text.config.vocab_size)))
        self.post_init()

    @property
    def cross(self) -> SingleStream:
        """The stream that reads pairs."""
        return self.stream if self.cross_stream is None else self.cross_stream

    @property
    def dims(self) -> dict[str, int]:
        """See RetrievalModel."""
        return {"embedding": int(self.config.embedding_dim) if self.projection is not None else self.stream.width}

    def text_vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        return {"embedding": self.pool(*self.stream(self.stream.words(ids), mask))}

    def visual_vectors(self, visual: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        return {"embedding": self.pool(*self.stream.alone(self.stream.regions(visual)))}

    def visual_cache(self, visual: torch.Tensor) -> torch.Tensor:
        """See RetrievalModel: the regions as they enter the stream that reads pairs."""
        return self.cross.regions(visual)

    def pair_scores(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        cache: torch.Tensor,
        cache_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See RetrievalModel; the whole stream runs once a pair."""
        states, _ = self.cross(self.cross.words(ids)[rows], mask[rows], cache, cache_mask)
        logits = self.match_logits(states)
        return logits[:, 1] - logits[:, 0] if self.config.match_score == "difference" else logits[:, 1]

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, D) of states (B, L, W): their mean over bool (B, L), [CLS] and [SEP] included."""
        pooled = states[:, 0] if self.config.text_pool == "cls" else masked_mean(states, mask)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return functional.normalize(pooled.float(), dim=-1)

    def match_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(P, 2) of states (P, L, W) of pairs: no, yes; in float32, for in bfloat16 many pairs would tie."""
        pooled = in_float32(self.match_pool, states[:, 0]).tanh()
        return in_float32(self.match_head, self.match_dropout(pooled))

    def word_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., vocabulary) of states (..., W) of words beside a picture."""
        words = functional.normalize(self.cross.text.get_input_embeddings().weight, dim=-1)  # type: ignore[arg-type]
        return functional.linear(functional.gelu(self.word_head(states)), words) + self.word_bias


class CooperativeObjective(Objective):
    """The losses of the tasks: "twin"; "cross"; "both", their sum; "words", those alone."""

    model: CooperativeModel
    losses: CooperativeLosses

    def forward(
        self,
        inputs: Inputs,
        *,
        task: str,
        progress: float,  # noqa: ARG002  (nothing here changes within a stage)
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """See Objective."""
        weights, out = self.losses, {}
        vectors, regions = None, []
        if task in ("twin", "both"):
            vectors = self._vectors(inputs)
            out["twin"] = self._twin(inputs, *vectors)
            ranked, _ = self.learn_rankings(inputs, cosines(*vectors), self.model.config.temperature)
            out |= ranked
        if task != "twin":
            regions = [self.model.cross.regions(group) for group in inputs.visuals]
        if task in ("cross", "both"):
            out["matching"] = self._match(inputs, regions, vectors, generator)
        if task == "words" or (task != "twin" and weights.masked_words):
            out["masked_words"] = self._masked_words(inputs, regions, generator)
        if task == "words":
            return out | {"total": out["masked_words"]}
        return out | {"total": torch.stack([getattr(weights, name) * loss for name, loss in out.items()]).sum()}

    def _vectors(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors (B, D) of texts and of pictures."""
        texts = self.model.text_vectors(inputs.ids, inputs.mask)["embedding"]
        return texts, torch.cat([self.model.visual_vectors(group)["embedding"] for group in inputs.visuals])

    def _twin(self, inputs: Inputs, texts: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        """The sum of both directions, over the items of all processes."""
        weights = self.losses
        positives = positive_mask(inputs.item_ids, gather(inputs.item_ids))
        directions = (cosines(texts, gather(pictures)), cosines(pictures, gather(texts)))
        if weights.twin_loss == "info_nce":
            temperature = torch.tensor(self.model.config.temperature, device=texts.device)
            return sum((info_nce(one, positives, temperature) for one in directions), start=texts.new_zeros(()))
        own, hardest = (texts * pictures).sum(1), weights.twin_loss == "hardest_triplet"
        return sum(
            (triplet(one, own, positives, margin=weights.margin, hardest=hardest) for one in directions),
            start=texts.new_zeros(()),
        )

    def _match(
        self,
        inputs: Inputs,
        regions: list[torch.Tensor],
        vectors: tuple[torch.Tensor, torch.Tensor] | None,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Matching over B (1 + m) pairs."""
        weights, model = self.losses, self.model
        positives = positive_mask(inputs.item_ids, inputs.item_ids)
        similarity = torch.zeros(positives.shape, device=positives.device)
        if weights.negative_choice != "random":
            with torch.no_grad():
                similarity = cosines(*(vectors or self._vectors(inputs)))
        texts, pictures, valid = one_side_negatives(
            similarity,
            positives,
            weights.negatives,
            temperature=model.config.temperature,
            how=weights.negative_choice,
            generator=generator,
        )
        own = torch.arange(len(positives), device=positives.device)
        text_rows, picture_rows = torch.cat([own, texts.flatten()]), torch.cat([own, pictures.flatten()])
        words = model.cross.words(inputs.ids)[text_rows]
        states = model.cross.beside(words, inputs.mask[text_rows], regions, picture_rows)
        labels = torch.cat([torch.ones_like(own), torch.where(valid.flatten(), 0, IGNORED)])
        return matching(model.match_logits(states), labels)

    def _masked_words(self, inputs: Inputs, regions: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """Tell hidden words from the picture and the rest of the text."""
        ids, labels = hide_words(
            inputs.ids,
            inputs.maskable,
            self.category if self.losses.masking == "categories" else None,
            fraction=self.losses.mask_fraction,
            mask_id=self.mask_id,
            generator=generator,
        )
        own, hidden = torch.arange(len(ids), device=ids.device), labels != IGNORED
        states = self.model.cross.beside(self.model.cross.words(ids), inputs.mask, regions, own)
        return masked_words(self.model.word_logits(states[hidden]), labels[hidden])
