"""Thinking Fast and Slow: a dual encoder, and a captioner whose likelihoods rerank (Miech et al., CVPR 2021).

Source: arXiv 2103.16553; no official code. The two reading directions as in VirTex (kdexd/virtex).
Offline: the vision towers of both sides; per picture one vector f and the feature maps the decoders look at.
Query: the fast text tower once a text; the two decoders for each of the K candidates. Only text to picture: h holds
  the prior of the text, which is one constant for all pictures of a text but ranks texts of a picture wrongly.
Letters: B texts or pictures, P pairs, F frames (1 for an image), G cells a side of the coarsest map, S cells of all
  maps of a frame that are kept, L words, C width of maps, U of the decoders, W vocabulary, D embedding, H W pixels.
Differs: the finer maps join an earlier stage of the backbone where it is the convolutional grid; of a Hugging Face
  backbone (or its cached features) they are made of its last tokens alone. Clips: frame tokens get an embedding of
  their time, are seen together, and each frame has its maps. Pre-norm blocks; words are compared with the direction of
  their embedding, not its length. The batch's contrast is symmetric; unknowns of the paper are settings.

  h(x, y)   = sum_l log p_fwd(y_l | y_<l, maps(x)) + sum_l log p_bwd(y_l | y_>l, maps(x))    Slow.log_likelihood
  s_ij      = f(x_j) . g(y_i)                                                               Fast
  L_slow    = -1/B sum_i h(x_i, y_i)                                                        FastSlowObjective
  L_fast    = contrast of s / tau over the batch
  L_distill = 1/B sum_i H(softmax_{x in B_i} h(x, y_i) / tau_d, softmax_{x in B_i} f(x) . g(y_i) / tau)
  L         = L_fast + alpha L_distill, Slow frozen
  L_mutual  = -1/B sum_i log softmax_{x in B_i} h(x, y_i) / directions, own picture first   "mutual", beyond the paper
  score     = h + beta s on the best K by s; beta is fitted to s as it is, a cosine, on validation queries
"""

import copy
import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from encoders.architectures.base import Objective, RetrievalConfig, RetrievalModel, Stage
from encoders.backbones import build_backbone
from encoders.layers import AttentionPool, Block, ConvGrid, Temperature, in_float32, projection
from encoders.losses import IGNORED, caption_log_likelihood, cosines, distillation, entropy_temperature, info_nce
from encoders.negatives import positive_mask, sample_negatives
from encoders.pooling import TextPool
from encoders.towers import VisualTower
from encoders.training.batches import Inputs
from encoders.training.gather import gather
from schemas.architectures import FastSlowLosses
from schemas.errors import ModelError

PAIRS_AT_ONCE, LOGITS_AT_ONCE, LOGITS_IN_CACHE = 512, 2**26, 2**22
"""Pairs P, and numbers P * L * W, that scoring holds in memory, or in a CPU's caches; more pairs take turns."""

SPECIAL_TOKENS = 8
"""The most tokens a frame may have beside its square grid ([CLS], registers)."""


class FastSlowConfig(RetrievalConfig):
    """See RetrievalConfig, which describes the fast side; the slow side beside it.

    Attributes:
      slow_visual_layers: transformer layers of the slow side's own tower, above its own backbone.
      levels: feature maps, the first of G * G cells a frame, each with twice the cells a side of the one before.
      decoder_levels: the map each layer looks at; empty: shallow layers at coarse maps, deep ones at fine maps.
      decoder_layers: of each direction.
      decoder_width: U.
      directions: "both", or "forward" (an ablation).
      share_directions: "embeddings": the directions share words, places and output; "all": the layers too.
      decoder_words: "own" word vectors, or those of the pretrained "text" encoder, fixed and mapped to U: few captions
        teach little about rare words.
      decoder_vocabulary: token ids that the decoder tells apart, rising; empty: all. All others are one more word.
    """

    model_type = "fastslow-fast_slow"

    slow_visual_layers: int = 2
    levels: int = 2
    decoder_levels: list[int] | tuple[int, ...] = ()
    decoder_layers: int = 2
    decoder_width: int = 128
    decoder_heads: int = 4
    decoder_dropout: float = 0.0
    directions: str = "both"
    share_directions: str = "embeddings"
    decoder_words: str = "own"
    decoder_vocabulary: list[int] | tuple[int, ...] = ()

    def level_of_layers(self) -> list[int]:
        """The map each decoder layer looks at."""
        layers = self.decoder_layers
        return list(self.decoder_levels) or [layer * self.levels // layers for layer in range(layers)]


class Fast(nn.Module):
    """The dual encoder: two towers that meet in a dot product."""

    def __init__(self, config: FastSlowConfig) -> None:
        super().__init__()
        self.vision = VisualTower(config)
        direct = config.visual_pool == "backbone"
        self.visual_pool = None if direct else AttentionPool(config.visual_width, config.visual_heads)
        self.text = build_backbone(config.text_config or {})
        self.text_pool = TextPool(config, int(self.text.config.hidden_size))
        head = partial(projection, hidden=config.head_hidden, dropout=config.head_dropout)
        seen = config.backbone_width if direct else config.visual_width
        self.visual_head = head(seen, config.embedding_dim)
        self.text_head = head(self.text_pool.width, config.embedding_dim)
        self.temperature = Temperature(config.temperature)

    def encode_visual(self, visual: torch.Tensor) -> torch.Tensor:
        """f: unit vectors float32 (B, D)."""
        if self.visual_pool is None:
            pooled = self.vision.look(visual).mean((1, 2))
        else:
            pooled = self.visual_pool(self.vision(visual))
        return unit(self.visual_head, pooled)

    def encode_text(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """g: unit vectors float32 (B, D) of what the text tower made of words; `mask` bool (B, L), True at words."""
        return unit(self.text_head, self.text_pool(states, mask))


def unit(head: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
    """Unit vectors float32 (B, D) of pooled states; a linear head computes in float32 too."""
    made = in_float32(head, pooled) if isinstance(head, nn.Linear) else head(pooled).float()
    return functional.normalize(made, dim=-1)


class FinerMap(nn.Module):
    """The next finer map: each cell becomes 2 x 2, joined by what an earlier stage of the backbone saw there."""

    def __init__(self, side: int, width: int, stage_width: int | None) -> None:
        """Of `side` cells a side; `stage_width`: channels of the backbone's stage of that size, None if it has none."""
        super().__init__()
        self.side = side
        self.split = nn.Linear(width, 4 * width)
        self.lateral = nn.Linear(stage_width, width) if stage_width else None
        self.space = nn.Embedding(side * side, width)
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, coarse: torch.Tensor, stage: torch.Tensor | None) -> torch.Tensor:
        """(N, side * side / 4, C) and (N, C_stage, side, side) -> (N, side * side, C)."""
        side, half = self.side, self.side // 2
        parts = self.split(coarse).view(-1, half, half, 2, 2, coarse.shape[-1])
        fine = parts.transpose(2, 3).reshape(len(coarse), side * side, coarse.shape[-1])  # row by row
        if self.lateral is not None:
            if stage is None:
                raise ModelError("the slow side needs pixels: its finer maps look at the backbone's earlier stages")
            fine = fine + self.lateral(stage.flatten(2).transpose(1, 2))
        fine = fine + self.space.weight
        seen = self.near(fine.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        out: torch.Tensor = self.norm(fine + self.mix(functional.gelu(seen)))
        return out


class Decoder(nn.Module):
    """Causal layers over words that look at maps, each layer at its own level."""

    def __init__(self, config: FastSlowConfig) -> None:
        super().__init__()
        self.levels = config.level_of_layers()
        width, heads, memory = config.decoder_width, config.decoder_heads, config.visual_width
        self.blocks = nn.ModuleList(Block(width, heads, memory, config.decoder_dropout) for _ in self.levels)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, words: torch.Tensor, maps: dict[int, torch.Tensor], visual_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """States (P, L, U) of embedded words (P, L, U); place l knows words up to l. Padding comes after all words."""
        for block, level in zip(self.blocks, self.levels, strict=True):
            words = block(words, memory=maps[level], memory_rows=visual_rows, causal=True)
        out: torch.Tensor = self.norm(words)
        return out


class Slow(nn.Module):
    """The captioner: a vision tower of its own, its feature maps, and a decoder for each direction."""

    row_of: torch.Tensor | None
    word_vectors: torch.Tensor

    def __init__(self, config: FastSlowConfig, vocabulary: int, text_width: int) -> None:
        super().__init__()
        own = copy.deepcopy(config)
        own.visual_layers = config.slow_visual_layers
        self.vision = VisualTower(own)
        side = math.isqrt(config.frame_tokens)
        self.special = config.frame_tokens - side * side
        if self.special > SPECIAL_TOKENS:
            raise ModelError(
                f"frame_tokens {config.frame_tokens}: expected a square grid and at most {SPECIAL_TOKENS} tokens more"
            )
        backbone = self.vision.backbone
        widths = backbone.widths[::-1] if isinstance(backbone, ConvGrid) else []  # by level
        self.finer = nn.ModuleList(
            FinerMap(side << level, config.visual_width, widths[level] if level < len(widths) else None)
            for level in range(1, config.levels)
        )
        self.kept = sorted(set(config.level_of_layers()))  # the levels that some layer looks at
        self.sizes = [(side << level) ** 2 for level in self.kept]
        self.directions = 2 if config.directions == "both" else 1
        width, told = config.decoder_width, list(config.decoder_vocabulary)
        row_of = None
        if told:  # token id -> row; what is not told apart has the last
            row_of = torch.full((vocabulary,), len(told))
            row_of[torch.tensor(told)] = torch.arange(len(told))
            vocabulary = len(told) + 1
        self.register_buffer("row_of", row_of)
        self.own_words = config.decoder_words == "own"
        if self.own_words:
            self.words = nn.Embedding(vocabulary, width)
        else:
            self.register_buffer("word_vectors", torch.zeros(vocabulary, text_width))
            self.enter = nn.Linear(text_width, width)
        self.dropout = nn.Dropout(config.decoder_dropout)
        self.places = nn.Embedding(config.max_words, width)
        decoders = self.directions if config.share_directions == "embeddings" else 1
        self.decoders = nn.ModuleList(Decoder(config) for _ in range(decoders))
        self.word_head = nn.Linear(width, width if self.own_words else text_width)  # then compared with the words
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))

    def cache(self, visual: torch.Tensor) -> torch.Tensor:
        """The kept maps of pixels or backbone features, frame by frame, coarse before fine: (B, F * S, C)."""
        batch, frames = visual.shape[:2]
        stages: list[torch.Tensor] = []
        backbone = self.vision.backbone
        if visual.ndim == 5 and isinstance(backbone, ConvGrid):
            features, stages = backbone.with_stages(visual.flatten(0, 1))
            visual = features.unflatten(0, (batch, frames))
        tokens = self.vision(visual)  # (B, F * V, C)
        level = tokens.unflatten(1, (frames, -1))[:, :, self.special :].flatten(0, 1)  # (B * F, G * G, C)
        levels = [level]
        for number, finer in enumerate(self.finer, start=1):
            level = finer(level, stages[-1 - number] if number < len(stages) else None)
            levels.append(level)
        kept = torch.cat([levels[number] for number in self.kept], dim=1)  # (B * F, S, C)
        return kept.unflatten(0, (batch, frames)).flatten(1, 2)

    def turns(self, pairs: torch.Tensor, words: int) -> tuple[torch.Tensor, ...]:
        """Numbers of pairs int64 (P,) with texts of so many words, as many at once as fit."""
        logits = LOGITS_IN_CACHE if pairs.device.type == "cpu" else LOGITS_AT_ONCE
        return pairs.split(max(1, min(PAIRS_AT_ONCE, logits // (words * len(self.word_bias)))))

    def maps(self, cache: torch.Tensor) -> dict[int, torch.Tensor]:
        """The maps (B, F * cells, C) by level, of what `cache` made."""
        parts = cache.unflatten(1, (-1, sum(self.sizes))).split(self.sizes, dim=2)
        return {level: part.flatten(1, 2) for level, part in zip(self.kept, parts, strict=True)}

    def log_likelihood(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        maps: dict[int, torch.Tensor],
        text_rows: torch.Tensor | None = None,
        visual_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """h, float32 (P,), in nats: each word and the end, told from the picture and the words before; and after.

        Args:
          ids, mask: int64 and bool (B, L), texts with their start and end tokens, padding last.
          maps: (B, F * cells, C) by level.
          text_rows, visual_rows: int64 (P,), the text and the picture of each pair; None: row by row. Keys and values
            of a picture are computed once, however many texts look at it.
        """
        total = torch.zeros((), device=ids.device)
        ids = ids if self.row_of is None else self.row_of[ids]
        for direction in range(self.directions):
            read = reversed_words(ids, mask) if direction else ids
            targets = read[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
            words = self.embed(read[:, :-1])
            if text_rows is not None:
                words, targets = words[text_rows], targets[text_rows]
            states = self.decoders[direction % len(self.decoders)](words, maps, visual_rows)
            logits = self.word_logits(states[targets != IGNORED])  # half of the places are padding, and words are many
            total = total + caption_log_likelihood(logits, targets)
        return total

    def embed(self, rows: torch.Tensor) -> torch.Tensor:
        """What enters the first layer, (B, L, U), of rows of words int64 (B, L)."""
        if self.own_words:
            words = self.words(rows)
        else:
            vectors = self.word_vectors[rows]
            words = self.enter(functional.layer_norm(vectors, vectors.shape[-1:]))
        placed: torch.Tensor = self.dropout(words + self.places.weight[: rows.shape[1]])
        return placed

    def word_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Float32 (..., W) of states (..., U).

        Where nothing learns they are computed in float32, for in bfloat16 many captions would be as likely.
        """
        known = self.words.weight if self.own_words else self.word_vectors
        words = functional.normalize(known.float(), dim=-1)
        if self.training:
            return functional.linear(self.word_head(states), words, self.word_bias).float()
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(in_float32(self.word_head, states), words, self.word_bias.float())


class FastSlowModel(RetrievalModel):
    """The network: two that share nothing."""

    config_class = FastSlowConfig
    base_model_prefix = "fast_slow"

    STAGES = {
        "both": Stage(("both",)),
        "slow": Stage(("slow",), frozen=("fast",), fast=False),
        "fast": Stage(("distil",), frozen=("slow",)),
        "fast_plain": Stage(("contrast",), frozen=("slow",)),
        "mutual": Stage(("mutual",), frozen=("fast",)),
    }
    """The paper trains "slow", then "fast"; "both" trains each alone at once, for they share nothing.

    "mutual" goes on with a trained captioner: it is to tell the own picture of a caption from those that the fast side
    takes for it, as maximum mutual information training does in speech recognition (Bahl et al., ICASSP 1986).
    """

    BACKBONES = {"vision": ("fast.vision.backbone", "slow.vision.backbone"), "text": ("fast.text",)}
    """Two, also where both start from the same weights; cached features serve both only while both are frozen."""

    def __init__(self, config: FastSlowConfig) -> None:
        super().__init__(config)
        if config.text_config is None:
            raise ModelError("FastSlow: text_config: expected the config of a BERT-like text encoder, got none")
        self.fast = Fast(config)
        text = self.fast.text.config
        self.slow = Slow(config, int(text.vocab_size), int(text.hidden_size))
        self.post_init()

    def backbones_loaded(self) -> None:
        """See RetrievalModel: the word vectors of the text encoder, and their mean for all that are not told apart."""
        if not self.slow.own_words:
            known = self.fast.text.get_input_embeddings().weight.detach()  # type: ignore[operator]
            told = known[torch.tensor(list(self.config.decoder_vocabulary))]
            self.slow.word_vectors.copy_(torch.cat([told, told.mean(0, keepdim=True)]))

    def text_vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        return {"embedding": self.fast.encode_text(self.text_states(ids, mask), mask)}

    def visual_vectors(self, visual: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        return {"embedding": self.fast.encode_visual(visual)}

    def visual_cache(self, visual: torch.Tensor) -> torch.Tensor:
        """See RetrievalModel: the slow side's own maps, (B, F * S, C)."""
        cache: torch.Tensor = self.slow.cache(visual)
        return cache

    def pair_scores(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        cache: torch.Tensor,
        cache_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See RetrievalModel: h, in nats. `cache_mask` pads whole frames, after those that are there."""
        scores = torch.zeros(len(rows), device=cache.device)
        lengths = cache_mask.sum(1) if cache_mask is not None else rows.new_full(rows.shape, cache.shape[1])
        for length in lengths.unique().tolist():  # as many frames together: none is padded
            for pairs in self.slow.turns((lengths == length).nonzero()[:, 0], ids.shape[1]):
                maps = self.slow.maps(cache[pairs, :length])
                scores[pairs] = self.slow.log_likelihood(ids, mask, maps, rows[pairs])
        return scores


class FastSlowObjective(Objective):
    """The losses.

    The tasks are "slow", "contrast", "both" of them, "distil", contrast with a frozen teacher, and "mutual", slow with
    the posterior of the own picture among hard ones, which is the likelihood of the caption over the sum of theirs.
    """

    model: FastSlowModel
    losses: FastSlowLosses

    def forward(
        self,
        inputs: Inputs,
        *,
        task: str,
        progress: float,  # noqa: ARG002  (no loss waits)
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """See Objective."""
        weights = self.losses
        out: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=inputs.ids.device)
        if task in ("slow", "both"):
            out["caption"] = self._caption(inputs)
            total = total + weights.caption * out["caption"]
        if task == "mutual":
            out |= self._mutual(inputs, generator)
            total = total + weights.caption * out["caption"] + weights.mutual * out["mutual"]
        if task in ("contrast", "both", "distil"):
            fast = self.model.fast
            pictures = torch.cat([fast.encode_visual(group) for group in inputs.visuals])
            states, temperature = self.model.text_states(inputs.ids, inputs.mask), fast.temperature()
            texts = fast.encode_text(states, inputs.mask)
            positives = positive_mask(inputs.item_ids, gather(inputs.item_ids))
            out["contrast"] = 0.5 * info_nce(cosines(texts, gather(pictures)), positives, temperature) + 0.5 * info_nce(
                cosines(pictures, gather(texts)), positives, temperature
            )
            ranked, weighted = self.learn_rankings(inputs, cosines(texts, pictures), temperature)
            out |= ranked
            total = total + weights.contrast * out["contrast"] + weighted
            if task == "distil":
                out["distillation"] = self._distil(inputs, cosines(texts, pictures), temperature, generator)
                total = total + weights.distillation * out["distillation"]
        return out | {"total": total}

    def _caption(self, inputs: Inputs) -> torch.Tensor:
        """L_slow: captions of their own pictures, no negatives."""
        slow, start, found = self.model.slow, 0, []
        for group in inputs.visuals:  # a group at a time, so that no picture is padded to the frames of a clip
            part = slice(start, start + len(group))
            maps = slow.maps(slow.cache(group))
            found.append(slow.log_likelihood(inputs.ids[part], inputs.mask[part], maps))
            start = part.stop
        return self._reduced(torch.cat(found), inputs.mask)

    def _reduced(self, likelihood: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """L_slow of h (B,), in nats a caption or a word."""
        if self.losses.caption_reduction == "sum":
            return -likelihood.mean()
        return -likelihood.sum() / (self.model.slow.directions * mask[:, 1:].sum())

    def _distil(
        self, inputs: Inputs, similarity: torch.Tensor, temperature: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """L_distill over B_i: each text's own picture and the hardest others by `similarity` (B texts, B pictures)."""
        weights = self.losses
        candidates, valid = self._candidates(inputs, similarity, temperature, generator)
        with torch.no_grad():
            teacher = self._scored(inputs, candidates)
        fixed = weights.distillation_temperature
        calibrated = entropy_temperature(teacher, valid, share=weights.teacher_entropy)
        softness = calibrated if fixed == "calibrate_entropy" else fixed
        student = similarity.gather(1, candidates) / (weights.student_temperature or temperature)
        return distillation(teacher, student, valid, temperature=softness, kind="ce")

    def _mutual(self, inputs: Inputs, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """L_slow, and L_mutual over B_i by the fast side, which is frozen; no picture is likelier beforehand."""
        fast = self.model.fast
        with torch.no_grad():
            pictures = torch.cat([fast.encode_visual(group) for group in inputs.visuals])
            texts = fast.encode_text(self.model.text_states(inputs.ids, inputs.mask), inputs.mask)
        candidates, valid = self._candidates(inputs, cosines(texts, pictures), fast.temperature(), generator)
        scores = self._scored(inputs, candidates)
        posterior = (scores / self.model.slow.directions).masked_fill(~valid, torch.finfo(scores.dtype).min)
        return {
            "caption": self._reduced(scores[:, 0], inputs.mask),
            "mutual": functional.cross_entropy(posterior, torch.zeros_like(candidates[:, 0])),
        }

    def _candidates(
        self, inputs: Inputs, similarity: torch.Tensor, temperature: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """B_i, int64 (B, m), the own picture first, and which of them are there, bool (B, m)."""
        weights = self.losses
        hard, valid = sample_negatives(
            similarity,
            positive_mask(inputs.item_ids, inputs.item_ids),
            weights.candidates - 1,
            temperature=temperature.detach(),
            how=weights.candidate_choice,
            generator=generator,
        )
        own = torch.arange(len(similarity), device=similarity.device)[:, None]
        return torch.cat([own, hard], dim=1), functional.pad(valid, (1, 0), value=True)

    def _scored(self, inputs: Inputs, candidates: torch.Tensor) -> torch.Tensor:
        """The likelihoods h of each text and its candidates, (B, m)."""
        slow, pictures = self.model.slow, candidates.flatten()
        texts = torch.arange(len(candidates), device=candidates.device).repeat_interleave(candidates.shape[1])
        scores = torch.zeros(len(pictures), device=candidates.device)
        start = 0
        for group in inputs.visuals:
            maps = slow.maps(slow.cache(group))
            here = ((pictures >= start) & (pictures < start + len(group))).nonzero()[:, 0]
            for pairs in slow.turns(here, inputs.ids.shape[1]):
                rows = texts[pairs], pictures[pairs] - start
                scores[pairs] = slow.log_likelihood(inputs.ids, inputs.mask, maps, *rows)
            start += len(group)
        return scores.view_as(candidates)


def reversed_words(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Texts read backwards, from the end token to the start token; padding stays last.

    >>> reversed_words(torch.tensor([[2, 7, 8, 3, 0]]), torch.tensor([[1, 1, 1, 1, 0]]).bool()).tolist()
    [[3, 8, 7, 2, 0]]

    Args:
      ids, mask: int64 and bool (B, L).
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    mirrored = mask.sum(1, keepdim=True) - 1 - place
    return ids.gather(1, torch.where(mirrored >= 0, mirrored, place))
