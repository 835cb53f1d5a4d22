"""HiVLP: one item has vectors of several widths, narrow ones to search coarsely, wide ones finely (Chen et al. 2022).

Source: arXiv 2205.12105; neither code nor the method's figures could be had, so what the abstract leaves open is a
  setting. It says: "the representation of different dimensions for coarse-to-fine" retrieval, in one pre-training.
Offline: the vision tower; per picture M unit vectors v^1..v^M of d_1 < ... < d_M numbers, nothing else.
Query: the text tower once, M vectors; N d_1 + K_1 d_2 + ... multiply-adds (pipelines/index/coarse_to_fine.py).
Letters: M levels, m one of them, B items or texts, P pairs, F frames (1 for an image), V tokens a picture (F times
  those of a frame), L words, C width of visual tokens, T width of text, D embedding (d_M), H W pixels, N items of
  all processes.
Differs: the fusion encoder of pre-training stays in the checkpoint as the pipeline's optional slow side; the paper
  drops it. It follows the towers in "joint" only: after much of "hierarchical" it reads states it was not trained on.
  Mined negatives as LoopITR's. Clips: frame tokens get an embedding of their time and are seen together.

  v^m    = norm(P_v^m pool(tokens)),  t^m = norm(P_t^m [CLS])        encode_visual, encode_text
           "heads": both of the last layer; "depth": of layer m/M of the tower; "nested": the first d_m of one vector
  S^m    = t^m v^m'
  L_hier = sum_m lambda_m 1/2 [CE(S^m / tau_m) + CE(S^m' / tau_m)]   HiVLPObjective, each level with its own tau_m
  L_kl   = sum_{m<M} KL(sg softmax(S^M / tau_M) | softmax(S^m / tau_m))
  L      = L_hier + w_kl L_kl (+ w_itm L_itm + w_mlm L_mlm in "joint")
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from encoders.architectures.base import Objective, Stage
from encoders.backbones import build_backbone
from encoders.fusion import FusionConfig, FusionModel
from encoders.layers import AttentionPool, Temperature, join_groups, projection
from encoders.losses import IGNORED, cosines, distillation, info_nce, masked_words, matching
from encoders.negatives import hide_words, mined_pairs, nearest, positive_mask
from encoders.pooling import TextPool
from encoders.towers import VisualTower
from encoders.training.batches import Inputs
from encoders.training.gather import gather
from schemas.architectures import HiVLPLosses
from schemas.errors import ModelError


class HiVLPConfig(FusionConfig):
    """See RetrievalConfig and FusionConfig; the levels beside them.

    Attributes:
      dims: d_1 < ... < d_M; `embedding_dim` is d_M.
      hierarchy: "heads" (each level its own projections of the same states), "depth" (of earlier layers) or "nested"
        (each level the first d_m numbers of one vector, as Matryoshka's: for comparison).
      temperatures: "each" level its own, or one "shared", which the narrow levels then dominate.
    """

    model_type = "fastslow-hivlp"

    dims: tuple[int, ...] = (16, 64)
    embedding_dim: int = 64
    hierarchy: str = "heads"
    temperatures: str = "each"


class HiVLPModel(FusionModel):
    """The network: vision tower, text tower, projections of each level; fusion for pre-training."""

    config_class = HiVLPConfig
    base_model_prefix = "hivlp"

    STAGES = {"joint": Stage(("joint",)), "hierarchical": Stage(("hierarchical",))}

    def __init__(self, config: HiVLPConfig) -> None:
        super().__init__(config)
        if config.text_config is None:
            raise ModelError("HiVLP: text_config: expected the config of a BERT-like text encoder, got none")
        widths = tuple(config.dims)
        if list(widths) != sorted(set(widths)) or not widths or widths[-1] != config.embedding_dim:
            raise ModelError(f"HiVLP: dims: expected widths that rise to {config.embedding_dim}, got {list(widths)}")
        deep, direct = config.hierarchy == "depth", config.visual_pool == "backbone"
        if deep and (direct or config.text_layers):
            raise ModelError('HiVLP: hierarchy "depth": expected no text_layers and no visual_pool "backbone"')
        self.text = build_backbone(config.text_config)
        text_width = int(self.text.config.hidden_size)
        self.vision = VisualTower(config)
        depths = len(widths) if deep else 1
        heads = widths[-1:] if config.hierarchy == "nested" else widths
        self.visual_pools = nn.ModuleList(
            AttentionPool(config.visual_width, config.visual_heads) for _ in range(0 if direct else depths)
        )
        self.text_pool = TextPool(config, text_width)
        head = partial(projection, hidden=config.head_hidden, dropout=config.head_dropout)
        seen = config.backbone_width if direct else config.visual_width
        self.visual_heads = nn.ModuleList(head(seen, width) for width in heads)  # P_v^m
        self.text_heads = nn.ModuleList(head(self.text_pool.width, width) for width in heads)  # P_t^m
        self.add_fusion(text_width)
        own = len(widths) if config.temperatures == "each" else 1
        self.temperatures = nn.ModuleList(Temperature(config.temperature) for _ in range(own))  # tau_m
        self.post_init()

    @property
    def dims(self) -> dict[str, int]:
        """See RetrievalModel; coarse to fine."""
        *coarser, finest = self.config.dims
        return {f"embedding_{width}": int(width) for width in coarser} | {"embedding": int(finest)}

    def temperature(self, level: int) -> torch.Tensor:
        """tau_m, scalar; `level` counts from 0, coarse to fine."""
        found: torch.Tensor = self.temperatures[level % len(self.temperatures)]()
        return found

    def encode_visual(self, visual: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens (B, V, C) and unit vectors (B, d_m) of each level, coarse to fine."""
        features = self.vision.look(visual)
        layers = self.vision.layers(features)
        picked = _spread(layers[1:] or layers, len(self.visual_pools))
        pooled = [pool(self.vision.norm(tokens)) for pool, tokens in zip(self.visual_pools, picked, strict=True)]
        return self.vision.norm(layers[-1]), self._levels(self.visual_heads, pooled or [features.mean((1, 2))])

    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """States (B, L, T) and unit vectors (B, d_m) of each level, of word ids and `mask` (B, L)."""
        if len(self.visual_pools) < 2:
            states = self.text_states(ids, mask)
            return states, self._levels(self.text_heads, [self.text_pool(states, mask)])
        read = self.text(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        layers = [*read.hidden_states[:-1], read.last_hidden_state]
        picked = _spread(layers[1:] or layers, len(self.visual_pools))
        return layers[-1], self._levels(self.text_heads, [self.text_pool(states, mask) for states in picked])

    def _levels(self, heads: nn.ModuleList, pooled: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Unit vectors (B, d_m) of each level, from one pooled vector for all, or one for each."""
        if self.config.hierarchy == "nested":
            whole = heads[0](pooled[0]).float()
            return [functional.normalize(whole[:, :width], dim=-1) for width in self.config.dims]
        each = [pooled[level % len(pooled)] for level in range(len(heads))]
        return [functional.normalize(head(one).float(), dim=-1) for head, one in zip(heads, each, strict=True)]

    def text_vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel."""
        return dict(zip(self.dims, self.encode_text(ids, mask)[1], strict=True))

    def visual_vectors(self, visual: torch.Tensor) -> dict[str, torch.Tensor]:
        """See RetrievalModel; without time (max_frames 0) a clip's tokens are pooled over its frames."""
        return dict(zip(self.dims, self.encode_visual(visual)[1], strict=True))


class HiVLPObjective(Objective):
    """The losses of the stages: "joint" pre-training, and "hierarchical", the vectors alone (fine-tuning)."""

    model: HiVLPModel
    losses: HiVLPLosses

    def __init__(self, model: HiVLPModel, losses: HiVLPLosses, *, mask_id: int, category: torch.Tensor | None) -> None:
        """See Objective.

        Raises:
          ModelError: there are not as many `level_weights` as levels.
        """
        super().__init__(model, losses, mask_id=mask_id, category=category)
        self.lambdas = losses.level_weights or (1.0,) * len(model.dims)
        if len(self.lambdas) != len(model.dims):
            raise ModelError(f"losses.level_weights: expected {len(model.dims)} numbers, got {len(self.lambdas)}")

    def forward(
        self,
        inputs: Inputs,
        *,
        task: str,
        progress: float,  # noqa: ARG002  (no loss waits)
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """See Objective."""
        model, weights = self.model, self.losses
        groups = [model.encode_visual(group) for group in inputs.visuals]
        tokens, token_mask = join_groups([g for g, _ in groups])
        pictures = [torch.cat(level) for level in zip(*(levels for _, levels in groups), strict=True)]
        states, texts = model.encode_text(inputs.ids, inputs.mask)
        out, total = self._hierarchy(inputs, texts, pictures)
        ranked, weighted = self.learn_rankings(inputs, cosines(texts[-1], pictures[-1]), model.temperature(-1))
        out, total = out | ranked, total + weighted
        if task == "joint" and weights.matching:
            pairs = mined_pairs(
                cosines(texts[-1], pictures[-1]),
                positive_mask(inputs.item_ids, inputs.item_ids),
                weights.negatives,
                temperature=weights.mining_temperature or model.temperature(-1).detach(),
                how=weights.negative_choice,
                generator=generator,
            )
            fused = model.fuse(states[pairs.texts], inputs.mask[pairs.texts], tokens, token_mask, pairs.pictures)
            out["matching"] = matching(model.match_logits(fused), pairs.labels)
            total = total + weights.matching * out["matching"]
        if task == "joint" and weights.masked_words:
            ids, labels = hide_words(
                inputs.ids,
                inputs.maskable,
                self.category if weights.masking == "categories" else None,
                fraction=weights.mask_fraction,
                mask_id=self.mask_id,
                generator=generator,
            )
            fused = model.fuse(model.text_states(ids, inputs.mask), inputs.mask, tokens, token_mask)
            hidden = labels != IGNORED
            out["masked_words"] = masked_words(model.word_logits(fused[hidden]), labels[hidden])
            total = total + weights.masked_words * out["masked_words"]
        return out | {"total": total}

    def _hierarchy(
        self, inputs: Inputs, texts: Sequence[torch.Tensor], pictures: Sequence[torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """L_hier and L_kl: the contrast of each level by name, and their weighted sum.

        Args:
          texts, pictures: (B, d_m) of each level, coarse to fine.
        """
        model, weights, columns = self.model, self.losses, list(self.model.dims)
        positives = positive_mask(inputs.item_ids, gather(inputs.item_ids))
        # (B, N) of each level, from texts to all pictures and from pictures to all texts.
        sides = [
            [cosines(a, gather(b)) for a, b in zip(one, other, strict=True)]
            for one, other in ((texts, pictures), (pictures, texts))
        ]
        out: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=positives.device)
        for level, (column, weight) in enumerate(zip(columns, self.lambdas, strict=True)):
            tau = model.temperature(level)
            among = [
                nearest(side[level - 1], positives, weights.curriculum) if weights.curriculum and level else None
                for side in sides
            ]
            name = column.replace("embedding", "contrast")
            out[name] = 0.5 * sum(
                (info_nce(side[level], positives, tau, near) for side, near in zip(sides, among, strict=True)),
                start=torch.zeros_like(total),
            )
            total = total + weight * out[name]
        if weights.fine_to_coarse_kl and len(columns) > 1:
            out["fine_to_coarse"] = 0.5 * sum(
                (
                    distillation(
                        side[-1] / model.temperature(-1),
                        side[level] / model.temperature(level),
                        torch.ones_like(positives),
                        temperature=1.0,
                        kind="kl",
                    )
                    for side in sides
                    for level in range(len(columns) - 1)
                ),
                start=torch.zeros_like(total),
            )
            total = total + weights.fine_to_coarse_kl * out["fine_to_coarse"]
        return out, total


def _spread(layers: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """`count` of the layers, evenly spread and ending with the last; a layer serves twice where there are too few."""
    return [layers[max(0, (number + 1) * len(layers) // count - 1)] for number in range(count)]
