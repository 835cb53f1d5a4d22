"""LoopITR: a dual encoder and a cross encoder in one network that teach each other (Lei et al., arXiv 2203.05465).

Source: the paper has no official code; built the ALBEF way (salesforce/ALBEF), with the paper's two loop arrows.
Offline: the vision tower; per picture one vector v and its tokens.
Query: the text tower once a text; the fusion layers for each of the K candidates.
Letters: B texts, R those that pairs are scored of, P pairs, F frames (1 for an image), V tokens a picture (F times
  those of a frame), L words, C width of visual tokens, T width of text, D embedding, m negatives a side, H W pixels,
  N items of all processes.
Differs: no momentum copy and no queue (ALBEF's; unknown for LoopITR); the fusion layers lie on top of a whole
  text encoder instead of splitting one; clips: frame tokens get an embedding of their time and are seen together.

  s_ij  = v_i . t_j                                   encode_visual, encode_text
  z_ij  = l1 - l0 of the matching head on [CLS]       pair_scores; its layers: encoders/fusion.py
  L     = L_itc + L_itm + w_d L_dis + w_m L_mlm       LoopITRObjective, "joint"
  L_res = CE over j in {i} and m hard ones of sg[s_ij] / tau + z_ij, own first    "residual", beyond the paper
"""

import torch
from torch import nn
from torch.nn import functional

from encoders.architectures.base import Objective, Stage
from encoders.backbones import build_backbone
from encoders.fusion import FusionConfig, FusionModel
from encoders.layers import AttentionPool, Heads, Temperature, join_groups, projection
from encoders.losses import IGNORED, cosines, distillation, info_nce, masked_words, matching
from encoders.negatives import hide_words, mined_pairs, positive_mask, sample_negatives
from encoders.pooling import TextPool
from encoders.towers import VisualTower
from encoders.training.batches import Inputs
from encoders.training.gather import gather
from schemas.architectures import LoopITRLosses
from schemas.errors import ModelError


class LoopITRConfig(FusionConfig):
    """See RetrievalConfig and FusionConfig.

    Attributes:
      visual_mirror: a picture's vector is the mean of its own and its mirror image's: twice the offline cost, none more
        for a query.
      heads: pairs of heads that learn on their own, each with a contrast of its own; their vectors are joined.
    """

    model_type = "fastslow-loopitr"

    visual_mirror: bool = False
    heads: int = 1


class LoopITRModel(FusionModel):
    """The network: vision tower, text tower, fusion, and their heads."""

    config_class = LoopITRConfig
    base_model_prefix = "loopitr"

    STAGES = {
        "joint": Stage(("joint",)),
        "contrast": Stage(("contrast",)),
        "residual": Stage(("residual",), frozen=("visual_head", "text_head")),
    }

    def __init__(self, config: LoopITRConfig) -> None:
        super().__init__(config)
        if config.text_config is None:
            raise ModelError("LoopITR: text_config: expected the config of a BERT-like text encoder, got none")
        self.text = build_backbone(config.text_config)
        text_width = int(self.text.config.hidden_size)
        width = config.visual_width
        self.vision = VisualTower(config)
        direct = config.visual_pool == "backbone"
        self.visual_pool = None if direct else AttentionPool(width, config.visual_heads)
        self.text_pool = TextPool(config, text_width)
        self.visual_head = self._head(config.backbone_width if direct else width)
        self.text_head = self._head(self.text_pool.width)
        self.add_fusion(text_width)
        self.temperature = Temperature(config.temperature)
        self.post_init()

    def _head(self, width: int) -> nn.Module:
        config = self.config
        out, hidden, dropout = config.embedding_dim, config.head_hidden, config.head_dropout
        if config.heads > 1:
            return Heads(width, out, count=config.heads, hidden=hidden, dropout=dropout)
        return projection(width, out, hidden=hidden, dropout=dropout)

    def encode_visual(self, visual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, V, C) and unit vectors (B, D)."""
        features = self.vision.look(visual)
        tokens = self.vision.transform(features)
        return tokens, self._vectors(features if self.visual_pool is None else tokens)

    def _vectors(self, seen: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, D) of features (B, F, V/F, C_backbone), or of tokens (B, V, C)."""
        pooled = seen.mean((1, 2)) if self.visual_pool is None else self.visual_pool(seen)
        return functional.normalize(self.visual_head(pooled).float(), dim=-1)

    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B, L, T) and unit vectors (B, D) of word ids int64 (B, L); `mask` bool (B, L), True at words."""
        states = self.text_states(ids, mask)
        return states, functional.normalize(self.text_head(self.text_pool(states, mask)).float(), dim=-1)

    def text_vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        return {"embedding": self.encode_text(ids, mask)[1]}

    def visual_vectors(self, visual: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel; without time (max_frames 0) a clip's tokens are pooled over its frames.

        While training, and of cached features, there is no mirror image.
        """
        if self.config.visual_mirror and visual.ndim == 5 and not self.training:
            both = self._look_and_pool(visual) + self._look_and_pool(visual.flip(-1))
            return {"embedding": functional.normalize(both, dim=-1)}
        return {"embedding": self._look_and_pool(visual)}

    def _look_and_pool(self, visual: torch.Tensor) -> torch.Tensor:
        seen = self.vision.look(visual)
        return self._vectors(seen if self.visual_pool is None else self.vision.transform(seen))


class LoopITRObjective(Objective):
    """The losses of the stages: "joint", all of them; "contrast", the dual encoder alone (a warm-up); and "residual".

    In "residual" the heads of the vectors are frozen, and the cross encoder learns what their scores lack to put the
    own picture first among the hardest of the batch: where pairs are few, learning all of a match again is too much.
    """

    model: LoopITRModel
    losses: LoopITRLosses

    def forward(
        self, inputs: Inputs, *, task: str, progress: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """See Objective."""
        model, weights = self.model, self.losses
        joint = task == "joint"
        tokens, token_mask = torch.empty(0), None
        if task != "contrast":
            groups = [model.encode_visual(group) for group in inputs.visuals]
            (tokens, token_mask), pictures = join_groups([g for g, _ in groups]), torch.cat([v for _, v in groups])
        else:
            pictures = torch.cat([model.visual_vectors(group)["embedding"] for group in inputs.visuals])
        states, texts = model.encode_text(inputs.ids, inputs.mask)
        temperature = model.temperature()
        if task == "residual":
            loss = self._residual(inputs, (states, texts), (tokens, token_mask), generator)
            return {"residual": loss, "total": weights.matching * loss}
        positives = positive_mask(inputs.item_ids, gather(inputs.item_ids))
        out = {"contrast": self._contrast(texts, pictures, positives, temperature)}
        ranked, weighted = self.learn_rankings(inputs, cosines(texts, pictures), temperature)
        out |= ranked
        total = weights.contrast * out["contrast"] + weighted
        if joint and (weights.matching or weights.distillation):
            out |= self._match(inputs, (states, texts), (tokens, token_mask, pictures), generator)
            total = total + weights.matching * out["matching"]
            started = weights.distillation > 0 and progress >= weights.distillation_start
            total = total + (weights.distillation if started else 0.0) * out["distillation"]
        if joint and weights.masked_words:
            out["masked_words"] = self._masked_words(inputs, tokens, token_mask, generator)
            total = total + weights.masked_words * out["masked_words"]
        return out | {"total": total}

    def _contrast(
        self, texts: torch.Tensor, pictures: torch.Tensor, positives: torch.Tensor, temperature: torch.Tensor
    ) -> torch.Tensor:
        """Of both directions, in mean over the heads: each tells the whole batch apart on its own."""
        count = self.model.config.heads
        whole = [texts, pictures, gather(texts), gather(pictures)]
        parts = [[vectors] for vectors in whole]
        if count > 1:  # (N, D / count) of each head, unit vectors again
            parts = [[part * count**0.5 for part in vectors.chunk(count, 1)] for vectors in whole]
        losses = [
            0.5 * info_nce(cosines(text, all_pictures), positives, temperature)
            + 0.5 * info_nce(cosines(picture, all_texts), positives, temperature)
            for text, picture, all_texts, all_pictures in zip(*parts, strict=True)
        ]
        return torch.stack(losses).mean()

    def _match(
        self,
        inputs: Inputs,
        text: tuple[torch.Tensor, torch.Tensor],
        visual: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Matching over R (1 + 2m) pairs, the negatives mined by the dual encoder, and its distillation back."""
        (states, texts), (tokens, token_mask, pictures) = text, visual
        weights, model, temperature = self.losses, self.model, self.model.temperature()
        similarity = cosines(texts, pictures)  # (B texts, B pictures)
        pairs = mined_pairs(
            similarity,
            positive_mask(inputs.item_ids, inputs.item_ids),
            weights.negatives,
            temperature=weights.mining_temperature or temperature.detach(),
            how=weights.negative_choice,
            generator=generator,
            rows=weights.match_rows,
        )
        fused = model.fuse(states[pairs.texts], inputs.mask[pairs.texts], tokens, token_mask, pairs.pictures)
        logits = model.match_logits(fused)  # (R (1 + 2m), 2)
        out = {"matching": matching(logits, pairs.labels)}

        many = pairs.hard_pictures.numel()
        own_score, of_pictures, of_texts = model.match_score(logits).split([len(pairs.rows), many, many])
        own = similarity.diagonal()[pairs.rows, None]
        sides = (
            (of_pictures, similarity[pairs.rows], pairs.hard_pictures, pairs.picture_valid),
            (of_texts, similarity.T[pairs.rows], pairs.hard_texts, pairs.text_valid),
        )
        out["distillation"] = 0.5 * sum(
            (
                distillation(
                    torch.cat([own_score[:, None], scores.view_as(hard)], 1),
                    torch.cat([own, matrix.gather(1, hard)], 1) / temperature,
                    functional.pad(valid, (1, 0), value=True),
                    temperature=weights.distillation_temperature,
                    kind=weights.distillation_kind,
                    stop_gradient=weights.stop_gradient,
                )
                for scores, matrix, hard, valid in sides
            ),
            start=torch.zeros((), device=texts.device),
        )
        return out

    def _residual(
        self,
        inputs: Inputs,
        text: tuple[torch.Tensor, torch.Tensor],
        visual: tuple[torch.Tensor, torch.Tensor | None],
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Which of 1 + m pictures is the text's own, told by the sum of both scores; R texts."""
        (states, texts), (tokens, token_mask) = text, visual
        weights, model, temperature = self.losses, self.model, self.model.temperature().detach()
        dropout = model.vision.dropout
        with torch.no_grad():  # what the fast side will say: nothing of the pictures is hidden from it
            dropout.train(False)
            pictures = torch.cat([model.visual_vectors(group)["embedding"] for group in inputs.visuals])
            dropout.train(model.training)
            similarity = cosines(texts, pictures)
        rows = torch.randperm(len(texts), generator=generator, device=texts.device)[: weights.match_rows]
        hard, valid = sample_negatives(
            similarity[rows],
            positive_mask(inputs.item_ids, inputs.item_ids)[rows],
            weights.negatives,
            temperature=weights.mining_temperature or temperature,
            how=weights.negative_choice,
            generator=generator,
        )
        candidates = torch.cat([rows[:, None], hard], 1)  # (R, 1 + m)
        asking = rows.repeat_interleave(candidates.shape[1])
        fused = model.fuse(states[asking], inputs.mask[asking], tokens, token_mask, candidates.flatten())
        slow = model.match_score(model.match_logits(fused)).view_as(candidates)
        scores = slow + similarity[rows].gather(1, candidates) / temperature
        scores = scores.masked_fill(~functional.pad(valid, (1, 0), value=True), torch.finfo(scores.dtype).min)
        return functional.cross_entropy(scores, torch.zeros_like(rows))

    def _masked_words(
        self, inputs: Inputs, tokens: torch.Tensor, token_mask: torch.Tensor | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Tell hidden words from the picture and the rest of the text."""
        ids, labels = hide_words(
            inputs.ids,
            inputs.maskable,
            self.category if self.losses.masking == "categories" else None,
            fraction=self.losses.mask_fraction,
            mask_id=self.mask_id,
            generator=generator,
        )
        states = self.model.text_states(ids, inputs.mask)
        fused = self.model.fuse(states, inputs.mask, tokens, token_mask)
        hidden = labels != IGNORED
        return masked_words(self.model.word_logits(fused[hidden]), labels[hidden])
