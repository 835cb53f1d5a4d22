"""VLDeformer: a single-stream transformer learns pairs, then is decomposed into a twin of vectors (Zhang et al. 2022).

Source: Knowledge-Based Systems 252:109316, arXiv 2110.11338, and the authors' code (idealwhite/VLDeformer, on Oscar).
Offline: the twin over tag words and regions, one vector v a picture; for reranking, the interaction's input embeddings.
Query: the twin over the text, one vector t. The optional second stage, which the paper leaves out, runs the whole
  interaction for each of the K candidates: words and picture meet in its first layer, so nothing later can be stored.
Letters: B items or texts, P pairs, T distinct texts, F frames (1 for an image), V places on the image side ([CLS],
  tags, [SEP], regions), K tags, L words, W width of the stream, D embedding (W without a projection), m negatives,
  N items of all processes, H W pixels.
Differs: regions are the cells of a grid, not a detector's boxes, and tags are words of the captions' own vocabulary
  that a linear head guesses from the regions: there is no detector. Tags begin at position 0 behind a [CLS] of their
  own also beside a caption (Oscar counts on from it): the image side is then the same in both stages, and can be
  stored. Masked means by default; the authors' mean over padding pads every text to `max_words`, so that a vector
  does not depend on its batch. Clips: regions of all frames with embeddings of their times, seen together.

  stage 1  z(x, y) = matching head on [CLS] of stream([CLS] x [SEP] | [CLS] tags [SEP] regions)   pair_scores
           L = L_itm + w_m L_mlm + w_t L_tags                                                       "interaction"
  stage 2  the twin starts as a copy of the stream                                                  enter_stage
           t = norm(tanh(drop(mean twin([CLS] x [SEP]))))                                           text_vectors
           v = norm(tanh(drop(mean twin([CLS] tags [SEP] regions))))                                visual_vectors
           S = T V^T,  L = CE(S / tau, own) + CE(S^T / tau, own), a sum, tau fixed                  "decomposition"
"""

import torch
from torch import nn
from torch.nn import functional

from encoders.architectures.base import Objective, RetrievalModel, Stage
from encoders.layers import in_float32, masked_mean, same_weights
from encoders.losses import (
    IGNORED,
    bag_of_words,
    cosines,
    info_nce,
    masked_words,
    matching,
    shifted_triplet,
)
from encoders.negatives import (
    bags,
    hide_words,
    positive_mask,
    replace_one_side,
    sample_negatives,
    word_overlap,
)
from encoders.single_stream import SingleStream, SingleStreamConfig
from encoders.training.batches import Inputs
from encoders.training.gather import gather
from schemas.architectures import VLDeformerLosses
from schemas.errors import ModelError


class VLDeformerConfig(SingleStreamConfig):
    """See SingleStreamConfig; tags and pooling beside it. `text_pool` and the `visual_` layers are not used.

    Attributes:
      tags: "none", or "predicted" by a linear head over the regions.
      tag_words: K.
      pooling: "mean_masked", or "mean_all" over padding too.
      pool_dropout: between the mean and the tanh.
      projection: to `embedding_dim`; without one D is the width of the stream.
      temperature: tau, fixed.
      match_score: the score is l1 - l0 ("difference") or l1 ("match").
    """

    model_type = "fastslow-vldeformer"

    tags: str = "predicted"
    tag_words: int = 8
    pooling: str = "mean_masked"
    pool_dropout: float = 0.1
    projection: bool = False
    temperature: float = 0.02
    match_score: str = "difference"


class Tagger(nn.Module):
    """Guesses the words of a picture's caption; stands where the paper has a detector.

    Attributes:
      share: float (vocabulary,), of the captions met that have each word.
    """

    share: torch.Tensor

    def __init__(self, width: int, vocabulary: int, count: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, vocabulary)
        self.count = min(count, vocabulary)
        self.register_buffer("share", torch.zeros(vocabulary))

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        """Logits (B, vocabulary) from regions (B, V, W)."""
        return in_float32(self.head, regions.mean(1))

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Ids int64 (B, K) of the words that are more probable here than elsewhere ("a" is probable everywhere)."""
        return (logits.detach().sigmoid() - self.share.float()).topk(self.count, dim=1).indices

    @torch.no_grad()
    def count_words(self, found: torch.Tensor) -> None:
        """Moves `share` towards that of a batch, bool (B, vocabulary)."""
        self.share.lerp_(found.to(self.share.dtype).mean(0), 0.01)


class Interaction(nn.Module):
    """Stage 1: the stream over words and picture together, and its heads."""

    def __init__(self, config: VLDeformerConfig) -> None:
        super().__init__()
        self.stream = SingleStream(config)
        width, vocabulary = self.stream.width, int(self.stream.text.config.vocab_size)
        self.tagger = Tagger(width, vocabulary, config.tag_words) if config.tags == "predicted" else None
        self.match_pool = nn.Linear(width, width)  # BERT's pooler
        self.match_head = nn.Linear(width, 2)
        self.word_head = nn.Linear(width, width)  # then compared with the word embeddings
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))

    def match_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(P, 2) from states (P, L, W): no, yes; in float32, for in bfloat16 many pairs would tie."""
        return in_float32(self.match_head, in_float32(self.match_pool, states[:, 0]).tanh())

    def word_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., vocabulary) from states (..., W)."""
        words = functional.normalize(self.stream.text.get_input_embeddings().weight, dim=-1)  # type: ignore[arg-type]
        return functional.linear(functional.gelu(self.word_head(states)), words) + self.word_bias


class VLDeformerModel(RetrievalModel):
    """The network: the interaction, and the twin that it becomes."""

    config_class = VLDeformerConfig
    base_model_prefix = "vldeformer"

    STAGES = {
        "interaction": Stage(("interaction",), fast=False),
        "decomposition": Stage(("decomposition",), frozen=("interaction",)),
        "scratch": Stage(("scratch",)),
    }
    BACKBONES = {
        "vision": ("interaction.stream.vision", "twin.vision"),
        "text": ("interaction.stream.text", "twin.text"),
    }
    TEXT_ALONE = False

    def __init__(self, config: VLDeformerConfig) -> None:
        super().__init__(config)
        if config.tags == "predicted" and config.sep_token_id is None:
            raise ModelError("VLDeformer: sep_token_id: expected the [SEP] of a BERT-like tokenizer, got none")
        self.interaction = Interaction(config)
        self.twin = SingleStream(config)
        self.pool_dropout = nn.Dropout(config.pool_dropout)
        self.projection = nn.Linear(self.twin.width, config.embedding_dim) if config.projection else None
        self.post_init()

    @property
    def dims(self) -> dict[str, int]:
        """See RetrievalModel."""
        return {"embedding": int(self.config.embedding_dim) if self.projection is not None else self.twin.width}

    def enter_stage(self, name: str) -> None:
        """See RetrievalModel; the twin of "decomposition" starts with the weights that learnt pairs."""
        if name == "decomposition":
            self.twin.load_state_dict(self.interaction.stream.state_dict())

    def backbone_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """See RetrievalModel; as long as it is frozen the twin's backbone makes the same."""
        return self.interaction.stream.features(pixels)

    def text_vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        if self.config.pooling == "mean_all":
            missing = self.config.max_words - ids.shape[1]
            pad = int(self.twin.text.config.pad_token_id or 0)
            ids, mask = functional.pad(ids, (0, missing), value=pad), functional.pad(mask, (0, missing), value=False)
        return {"embedding": self.pool(*self.twin(self.twin.words(ids), mask))}

    def visual_vectors(self, visual: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel; a backbone that both stages have, for it was frozen, looks once."""
        tagger, stream = self.interaction.tagger, self.interaction.stream
        if tagger is None:
            return {"embedding": self.picture_vectors(visual, None)}
        if visual.ndim == 5 and not self.training and same_weights(stream.vision, self.twin.vision):
            visual = stream.features(visual.flatten(0, 1)).unflatten(0, visual.shape[:2])
        return {"embedding": self.picture_vectors(visual, tagger(stream.regions(visual)))}

    def picture_vectors(self, visual: torch.Tensor, tag_logits: torch.Tensor | None) -> torch.Tensor:
        """Unit vectors (B, D) of pictures whose tags have been guessed: logits (B, vocabulary)."""
        return self.pool(*self.twin(self.picture(self.twin, self.twin.regions(visual), tag_logits)))

    def visual_cache(self, visual: torch.Tensor) -> torch.Tensor:
        """See RetrievalModel: the image side of the interaction's input."""
        regions = self.interaction.stream.regions(visual)
        logits = self.interaction.tagger(regions) if self.interaction.tagger is not None else None
        return self.picture(self.interaction.stream, regions, logits)

    def pair_scores(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        cache: torch.Tensor,
        cache_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See RetrievalModel; the whole stream runs once a pair."""
        words = self.interaction.stream.words(ids)[rows]
        states, _ = self.interaction.stream(words, mask[rows], cache, cache_mask)
        logits = self.interaction.match_logits(states)
        return logits[:, 1] - logits[:, 0] if self.config.match_score == "difference" else logits[:, 1]

    def picture(self, stream: SingleStream, regions: torch.Tensor, tag_logits: torch.Tensor | None) -> torch.Tensor:
        """The image side (B, V, W) of a stream's input: [CLS] tags [SEP] from position 0 on, then regions.

        Without tags it is [CLS] and regions.
        """
        ids = torch.full((len(regions), 1), int(self.config.cls_token_id), device=regions.device)
        tagger = self.interaction.tagger
        if tagger is None or tag_logits is None:
            return torch.cat([stream.words(ids), regions], 1)
        ids = torch.cat([ids, tagger.pick(tag_logits), torch.full_like(ids, int(self.config.sep_token_id))], 1)
        return torch.cat([stream.words(ids, segment=1), regions], 1)

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, D) from states (B, L, W), bool (B, L)."""
        mean = states.mean(1) if self.config.pooling == "mean_all" else masked_mean(states, mask)
        pooled = self.pool_dropout(mean).tanh()
        return functional.normalize(
            (self.projection(pooled) if self.projection is not None else pooled).float(), dim=-1
        )


class VLDeformerObjective(Objective):
    """The losses of the stages: pairs; vectors; and vectors without the copy, as an ablation ("scratch")."""

    model: VLDeformerModel
    losses: VLDeformerLosses

    def forward(
        self,
        inputs: Inputs,
        *,
        task: str,
        progress: float,  # noqa: ARG002  (nothing here changes within a stage)
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """See Objective."""
        model, weights, interaction = self.model, self.losses, self.model.interaction
        regions, logits = [], None
        if task == "interaction" or interaction.tagger is not None:
            regions = [interaction.stream.regions(group) for group in inputs.visuals]
        if interaction.tagger is not None:
            logits = [interaction.tagger(group) for group in regions]
        tags = logits or [None] * len(inputs.visuals)
        if task == "interaction":
            inputs_of = [model.picture(interaction.stream, *group) for group in zip(regions, tags, strict=True)]
            out = self._pairs(inputs, inputs_of, generator)
        else:
            pictures = torch.cat([model.picture_vectors(*group) for group in zip(inputs.visuals, tags, strict=True)])
            texts = model.text_vectors(inputs.ids, inputs.mask)["embedding"]
            out = {"contrast": self._contrast(inputs, texts, pictures)}
            ranked, _ = self.learn_rankings(inputs, cosines(texts, pictures), model.config.temperature)
            out |= ranked
        if logits and task != "decomposition":
            out["tags"] = self._tags(inputs, torch.cat(logits))
        total = sum((getattr(weights, name) * loss for name, loss in out.items()), start=torch.zeros(()))
        return out | {"total": total}

    def _pairs(
        self, inputs: Inputs, pictures: list[torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Matching over B (1 + m) pairs, and words hidden in the pairs that match."""
        weights, model = self.losses, self.model
        chosen, valid = self._negatives(inputs, generator)  # (B, m)
        own = torch.arange(len(chosen), device=chosen.device)
        if weights.negative_choice == "random":
            texts, others = replace_one_side(chosen, generator=generator)
        else:  # the nearest of a caption has that caption near: its own row makes the pair the other way round
            texts, others = own[:, None].expand_as(chosen), chosen
        text_rows, picture_rows = torch.cat([own, texts.flatten()]), torch.cat([own, others.flatten()])
        states = self._read(inputs.ids[text_rows], inputs.mask[text_rows], pictures, picture_rows)
        labels = torch.cat([torch.ones_like(own), torch.where(valid.flatten(), 0, IGNORED)])
        out = {"matching": matching(model.interaction.match_logits(states), labels)}
        if weights.masked_words:
            ids, labels = hide_words(
                inputs.ids,
                inputs.maskable,
                self.category if weights.masking == "categories" else None,
                fraction=weights.mask_fraction,
                mask_id=self.mask_id,
                generator=generator,
            )
            hidden = labels != IGNORED
            states = self._read(ids, inputs.mask, pictures, own)
            out["masked_words"] = masked_words(model.interaction.word_logits(states[hidden]), labels[hidden])
        return out

    def _negatives(self, inputs: Inputs, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """For each item m others of the batch, int64 (B, m), and which of them there are."""
        random = self.losses.negative_choice == "random"
        return sample_negatives(
            word_overlap(inputs.ids, inputs.maskable),
            positive_mask(inputs.item_ids, inputs.item_ids),
            self.losses.negatives,
            temperature=self.losses.overlap_temperature,
            how="random" if random else "sampled",
            generator=generator,
        )

    def _read(
        self, ids: torch.Tensor, mask: torch.Tensor, pictures: list[torch.Tensor], rows: torch.Tensor
    ) -> torch.Tensor:
        """States of words (P, L, W) that were read beside pictures.

        Images and clips are read apart: padded to the length of a clip, an image would cost as much as one.

        Args:
          ids, mask: (P, L).
          pictures: groups (B_g, V_g, W).
          rows: int64 (P,), places in all groups, one behind the other.
        """
        stream, states, places, first = self.model.interaction.stream, [], [], 0
        words = stream.words(ids)
        for group in pictures:
            here = ((rows >= first) & (rows < first + len(group))).nonzero()[:, 0]
            read, _ = stream(words[here], mask[here], group[rows[here] - first])
            states.append(read[:, : ids.shape[1]])
            places.append(here)
            first += len(group)
        return torch.cat(states)[torch.cat(places).argsort()]

    def _contrast(self, inputs: Inputs, texts: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        """The sum, not the mean, of both directions."""
        if self.losses.contrast_kind == "triplet":
            valid = inputs.item_ids != inputs.item_ids.roll(1)
            margin = self.losses.margin
            return shifted_triplet(texts, pictures, valid, margin=margin) + shifted_triplet(
                pictures, texts, valid, margin=margin
            )
        positives = positive_mask(inputs.item_ids, gather(inputs.item_ids))
        temperature = torch.tensor(self.model.config.temperature, device=texts.device)
        return info_nce(cosines(texts, gather(pictures)), positives, temperature) + info_nce(
            cosines(pictures, gather(texts)), positives, temperature
        )

    def _tags(self, inputs: Inputs, logits: torch.Tensor) -> torch.Tensor:
        """Guess the words of the caption from the picture alone."""
        tagger = self.model.interaction.tagger
        found = bags(inputs.ids, inputs.maskable, logits.shape[1]) > 0
        if tagger is not None and self.training:
            tagger.count_words(found)
        return bag_of_words(logits, found)
