"""LoopITR: a dual encoder and a cross encoder in one network that teach each other (Lei et al., arXiv 2203.05465).

Source: the paper has no official code; built the ALBEF way (salesforce/ALBEF), with the paper's two loop arrows.
Offline: the vision tower; per picture one vector v and its tokens.
Query: the text tower once a text; the fusion layers for each of the K candidates.
Letters: B texts, P pairs, F frames (1 for an image), V tokens a picture (F times those of a frame), L words,
  C width of visual tokens, T width of text, D embedding, m negatives a side, H W pixels, N items of all processes.
Differs: no momentum copy and no queue (ALBEF's; unknown for LoopITR); the fusion layers lie on top of a whole
  text encoder instead of splitting one; clips: frame tokens get an embedding of their time and are seen together.

  s_ij  = v_i . t_j                                   encode_visual, encode_text
  z_ij  = l1 - l0 of the matching head on [CLS]       score
  L     = L_itc + L_itm + w_d L_dis + w_m L_mlm       LoopITRObjective
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from encoders.backbones import build_backbone
from encoders.base import Vectors
from encoders.hf.weights import load_weights
from encoders.layers import AttentionPool, Block, ConvGrid, masked_mean
from encoders.losses import IGNORED, distillation, info_nce, masked_words, matching
from encoders.negatives import mask_category, mask_words, positive_mask, sample_negatives
from encoders.pixels import normalise, read_spec
from encoders.training.batches import Inputs, tokenise
from encoders.training.gather import gather
from schemas.errors import ModelError
from schemas.training import LoopITRLosses


class LoopITRConfig(PreTrainedConfig):
    """Everything that decides the shape of the network; embeds its backbones' configs, so a checkpoint is whole.

    Attributes:
      vision_config: of a Hugging Face vision backbone (with its model_type); None: the convolutional grid.
      text_config: of a BERT-like text encoder (with its model_type).
      image_size: pixels a side of the input.
      grid: tokens a side of the convolutional grid.
      frame_tokens: tokens the vision backbone makes of one frame.
      backbone_width: their width.
      visual_width: C.
      visual_layers: transformer layers over all F * V tokens, above the backbone.
      spatial_positions: learnt positions are added to the tokens of a frame (for backbones that have none).
      max_frames: times that have an embedding of their own; other frame counts interpolate. 0: time is not seen.
      frames: frames sampled from a clip.
      text_pool: "cls" or "mean".
      max_words: longest text in tokens, with its special ones.
      embedding_dim: D.
      position_std: scale of position and token embeddings at the start; a bag of words is all that is learnt where
        positions are much smaller than tokens.
      temperature: of the contrast at the start (learned, kept in 0.001..0.5).
      match_score: the score is l1 - l0 ("difference") or l1 ("match").
    """

    model_type = "fastslow-loopitr"

    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    image_size: int = 64
    grid: int = 4
    frame_tokens: int = 16
    backbone_width: int = 128
    visual_width: int = 128
    visual_layers: int = 2
    visual_heads: int = 4
    spatial_positions: bool = True
    max_frames: int = 4
    frames: int = 4
    text_pool: str = "cls"
    max_words: int = 32
    fusion_layers: int = 3
    fusion_heads: int = 4
    fusion_dropout: float = 0.0
    embedding_dim: int = 32
    position_std: float = 0.5
    temperature: float = 0.07
    match_score: str = "difference"


class LoopITRModel(PreTrainedModel):
    """The network: vision tower, text tower, fusion, and their heads."""

    config_class = LoopITRConfig
    base_model_prefix = "loopitr"
    main_input_name = "pixels"
    _no_split_modules: list[str] = []

    def __init__(self, config: LoopITRConfig) -> None:
        super().__init__(config)
        if config.text_config is None:
            raise ModelError("LoopITR: text_config: expected the config of a BERT-like text encoder, got none")
        self.text = build_backbone(config.text_config)
        text_width = int(self.text.config.hidden_size)
        width = config.visual_width
        self.vision = (
            build_backbone(config.vision_config)
            if config.vision_config is not None
            else ConvGrid(config.image_size, config.grid, config.backbone_width)
        )
        self.visual_in = nn.Linear(config.backbone_width, width)
        self.space = nn.Parameter(torch.zeros(config.frame_tokens, width)) if config.spatial_positions else None
        self.time = nn.Parameter(torch.zeros(config.max_frames, width)) if config.max_frames else None
        self.visual_blocks = nn.ModuleList(Block(width, config.visual_heads) for _ in range(config.visual_layers))
        self.visual_norm = nn.LayerNorm(width)
        self.visual_pool = AttentionPool(width, config.visual_heads)
        self.visual_head = nn.Linear(width, config.embedding_dim)
        self.text_head = nn.Linear(text_width, config.embedding_dim)
        self.fusion_blocks = nn.ModuleList(
            Block(text_width, config.fusion_heads, width, config.fusion_dropout) for _ in range(config.fusion_layers)
        )
        self.fusion_norm = nn.LayerNorm(text_width)
        self.match_head = nn.Linear(text_width, 2)
        self.word_head = nn.Linear(text_width, text_width)  # then compared with the word embeddings
        self.word_bias = nn.Parameter(torch.zeros(int(self.text.config.vocab_size)))
        self.log_temperature = nn.Parameter(torch.tensor(float(config.temperature)).log())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Called on each module that was not loaded."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.position_std)
            if module.padding_idx is not None:
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()
        elif isinstance(module, LoopITRModel):
            for table in (module.space, module.time):
                if table is not None:
                    nn.init.normal_(table, std=self.config.position_std)

    def train(self, mode: bool = True) -> "LoopITRModel":
        """As usual, but a backbone's batch norms keep their stored statistics."""
        super().train(mode)
        for module in self.vision.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @property
    def temperature(self) -> torch.Tensor:
        """Of the contrast; scalar."""
        return self.log_temperature.exp().clamp(0.001, 0.5)

    def frame_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the vision backbone makes of frames (B, 3, H, W): (B, V, C_backbone). Can be cached while frozen."""
        if isinstance(self.vision, ConvGrid):
            return self.vision(pixels)
        features: torch.Tensor = self.vision(pixel_values=pixels).last_hidden_state
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features

    def encode_visual(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, V, C) and unit vectors (B, D) of normalised pixels (B, F, 3, H, W)."""
        return self.encode_features(self.frame_features(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]))

    def encode_features(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As encode_visual, from the backbone's features (B, F, V/F, C_backbone)."""
        frames = features.shape[1]
        tokens = self.visual_in(features)
        if self.space is not None:
            tokens = tokens + self.space
        if self.time is not None and frames > 1:
            tokens = tokens + self.times(frames)[:, None, :]
        tokens = tokens.flatten(1, 2)  # (B, V, C)
        for block in self.visual_blocks:
            tokens = block(tokens)
        tokens = self.visual_norm(tokens)
        return tokens, functional.normalize(self.visual_head(self.visual_pool(tokens)).float(), dim=-1)

    def times(self, frames: int) -> torch.Tensor:
        """Embeddings (F, C) of the times (i + 0.5) / F of a clip, interpolated where F is not max_frames."""
        if self.time is None:
            raise ModelError("LoopITR: this checkpoint does not see time (max_frames 0)")
        if frames == len(self.time):
            return self.time
        table = functional.interpolate(self.time.float().T[None], size=frames, mode="linear", align_corners=False)
        return table[0].T.to(self.time.dtype)

    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B, L, T) and unit vectors (B, D) of word ids int64 (B, L); `mask` bool (B, L), True at words."""
        states = self.text(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = states[:, 0] if self.config.text_pool == "cls" else masked_mean(states, mask)
        return states, functional.normalize(self.text_head(pooled).float(), dim=-1)

    def fuse(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        tokens: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """States (P, L, T) of words that have looked at each other, in both directions, and at a picture.

        Args:
          states, mask: (P, L, T) and bool (P, L), of encode_text.
          tokens, token_mask: (P, V, C) and bool (P, V), of encode_visual; or fewer rows, and
          rows: int64 (P,), which picture each text looks at.
        """
        for block in self.fusion_blocks:
            states = block(states, mask, tokens, token_mask, rows)
        return self.fusion_norm(states)

    def match_logits(self, fused: torch.Tensor) -> torch.Tensor:
        """(P, 2) from fused states (P, L, T): no, yes."""
        return self.match_head(fused[:, 0])

    def match_score(self, logits: torch.Tensor) -> torch.Tensor:
        """(P,) from (P, 2)."""
        return logits[:, 1] - logits[:, 0] if self.config.match_score == "difference" else logits[:, 1]

    def word_logits(self, fused: torch.Tensor) -> torch.Tensor:
        """(P, L, vocabulary) from fused states (P, L, T)."""
        words = functional.normalize(self.text.get_input_embeddings().weight, dim=-1)  # type: ignore[arg-type]
        return functional.linear(functional.gelu(self.word_head(fused)), words) + self.word_bias


class LoopITRObjective(nn.Module):
    """The training losses; the whole of a step is one forward, so that gradients can be averaged over processes."""

    def __init__(
        self, model: LoopITRModel, losses: LoopITRLosses, *, mask_id: int, category: torch.Tensor | None
    ) -> None:
        """Wraps a model.

        Args:
          mask_id: token that hides a word.
          category: int64 (vocabulary,), for masking by category; -1: none.
        """
        super().__init__()
        self.model = model
        self.losses = losses
        self.mask_id = mask_id
        self.register_buffer("category", category, persistent=False)

    def forward(self, inputs: Inputs, *, progress: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses by name, each a scalar, unweighted, and their weighted "total".

        Args:
          inputs: a batch.
          progress: share of the training done.
          generator: on the batch's device; all chance comes from it.
        """
        model, weights = self.model, self.losses
        tokens, token_mask, pictures = self._encode_visuals(inputs)
        states, texts = model.encode_text(inputs.ids, inputs.mask)
        temperature = model.temperature
        all_ids = gather(inputs.item_ids)
        positives = positive_mask(inputs.item_ids, all_ids)
        out = {
            "contrast": 0.5 * info_nce(_cosines(texts, gather(pictures)), positives, temperature)
            + 0.5 * info_nce(_cosines(pictures, gather(texts)), positives, temperature)
        }
        total = weights.contrast * out["contrast"]
        if weights.matching or weights.distillation:
            out |= self._match(inputs, (states, texts), (tokens, token_mask, pictures), generator)
            total = total + weights.matching * out["matching"]
            started = weights.distillation > 0 and progress >= weights.distillation_start
            total = total + (weights.distillation if started else 0.0) * out["distillation"]
        if weights.masked_words:
            out["masked_words"] = self._masked_words(inputs, tokens, token_mask, generator)
            total = total + weights.masked_words * out["masked_words"]
        return out | {"total": total}

    def _encode_visuals(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Tokens (B, V, C), padded where groups differ, their mask (B, V) or None, and vectors (B, D)."""
        encode = [
            self.model.encode_visual(group) if group.ndim == 5 else self.model.encode_features(group)
            for group in inputs.visuals
        ]
        vectors = torch.cat([vector for _, vector in encode])
        if len(encode) == 1:
            return encode[0][0], None, vectors
        longest = max(tokens.shape[1] for tokens, _ in encode)
        padded = [functional.pad(tokens, (0, 0, 0, longest - tokens.shape[1])) for tokens, _ in encode]
        place = torch.arange(longest, device=vectors.device)
        mask = torch.cat([(place < tokens.shape[1]).expand(len(tokens), -1) for tokens, _ in encode])
        return torch.cat(padded), mask, vectors

    def _match(
        self,
        inputs: Inputs,
        text: tuple[torch.Tensor, torch.Tensor],
        visual: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Matching over B (1 + 2m) pairs, the negatives mined by the dual encoder, and its distillation back."""
        (states, texts), (tokens, token_mask, pictures) = text, visual
        weights, model, temperature = self.losses, self.model, self.model.temperature
        similarity = _cosines(texts, pictures)  # (B texts, B pictures)
        positives = positive_mask(inputs.item_ids, inputs.item_ids)
        draws = [
            sample_negatives(
                matrix,
                positives,
                weights.negatives,
                temperature=weights.mining_temperature or temperature.detach(),
                how=weights.negative_choice,
                generator=generator,
            )
            for matrix in (similarity, similarity.T)
        ]
        (hard_pictures, picture_valid), (hard_texts, text_valid) = draws  # (B, m) each
        own = torch.arange(len(texts), device=texts.device)
        many = own[:, None].expand_as(hard_pictures).flatten()
        text_rows = torch.cat([own, many, hard_texts.flatten()])
        picture_rows = torch.cat([own, hard_pictures.flatten(), many])
        fused = model.fuse(states[text_rows], inputs.mask[text_rows], tokens, token_mask, picture_rows)
        logits = model.match_logits(fused)  # (B (1 + 2m), 2)
        negative_label = torch.where(torch.cat([picture_valid.flatten(), text_valid.flatten()]), 0, IGNORED)
        labels = torch.cat([torch.ones_like(own), negative_label])
        out = {"matching": matching(logits, labels)}

        own_score, of_pictures, of_texts = model.match_score(logits).split([len(own), many.numel(), many.numel()])
        sides = (
            (of_pictures, similarity, hard_pictures, picture_valid),
            (of_texts, similarity.T, hard_texts, text_valid),
        )
        out["distillation"] = 0.5 * sum(
            (
                distillation(
                    torch.cat([own_score[:, None], scores.view_as(hard)], 1),
                    torch.cat([matrix.diagonal()[:, None], matrix.gather(1, hard)], 1) / temperature,
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

    def _masked_words(
        self, inputs: Inputs, tokens: torch.Tensor, token_mask: torch.Tensor | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Tell hidden words from the picture and the rest of the text."""
        category = self.category
        if self.losses.masking == "categories" and isinstance(category, torch.Tensor):
            ids, labels = mask_category(inputs.ids, category, mask_id=self.mask_id, generator=generator)
        else:
            fraction = self.losses.mask_fraction
            ids, labels = mask_words(
                inputs.ids, inputs.maskable, fraction=fraction, mask_id=self.mask_id, generator=generator
            )
        states, _ = self.model.encode_text(ids, inputs.mask)
        fused = self.model.fuse(states, inputs.mask, tokens, token_mask)
        hidden = labels != IGNORED
        return masked_words(self.model.word_logits(fused[hidden]), labels[hidden])


def _cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B, N) of unit vectors, in float32 also where the rest is computed in less."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float().T


class LoopITREncoder:
    """A trained LoopITR as both a DualEncoder and a PairScorer; the two share one set of weights."""

    def __init__(self, folder: str | Path, *, dtype: torch.dtype, device: torch.device, fingerprint: str) -> None:
        """Loads a checkpoint folder written by training.

        Raises:
          ModelError: it is not whole.
        """
        self.model = load_weights(LoopITRModel, Path(folder), dtype=dtype, device=device)
        try:
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: not a LoopITR checkpoint: {error}") from error
        self.config: LoopITRConfig = self.model.config  # type: ignore[assignment]
        self.device, self.dtype, self.fingerprint = device, dtype, fingerprint
        self.pixels = read_spec(Path(folder), family="Siglip")
        self.frames = self.config.frames if self.config.max_frames else None
        self.dims = {"embedding": self.config.embedding_dim}
        self.pair_evaluations = 0
        self._counting = threading.Lock()
        self._tokenising = threading.Lock()  # truncation settings are state of a fast tokenizer

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """See encoders.base.DualEncoder."""
        if not texts:
            return {"embedding": np.empty((0, self.config.embedding_dim), np.float32)}
        return _public(self.model.encode_text(*self._tokenise(texts))[1])

    @torch.inference_mode()
    def encode_visual(self, pixels: torch.Tensor) -> Vectors:
        """See encoders.base.DualEncoder; without time (max_frames 0) a clip's tokens are pooled over its frames."""
        return _public(self.model.encode_visual(self._normalise(pixels))[1])

    @torch.inference_mode()
    def visual_cache(self, pixels: torch.Tensor) -> torch.Tensor:
        """See encoders.base.PairScorer: the tokens, (B, F * V, C)."""
        return self.model.encode_visual(self._normalise(pixels))[0]

    @torch.inference_mode()
    def score(self, texts: Sequence[str], cache: torch.Tensor) -> np.ndarray:
        """See encoders.base.PairScorer; a text that is given several times is read once.

        Raises:
          ModelError: numbers of texts and of cached pictures differ.
        """
        if len(texts) != len(cache):
            raise ModelError(f"score: expected as many texts as cached pictures, got {len(texts)} and {len(cache)}")
        if not texts:
            return np.empty(0, np.float32)
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        rows = torch.tensor([place[text] for text in texts], device=self.device)
        ids, mask = self._tokenise(distinct)
        states, _ = self.model.encode_text(ids, mask)
        fused = self.model.fuse(states[rows], mask[rows], cache.to(self.device, self.dtype))
        scores: np.ndarray = self.model.match_score(self.model.match_logits(fused)).float().cpu().numpy()
        with self._counting:
            self.pair_evaluations += len(texts)
        return scores

    def _tokenise(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        with self._tokenising:
            return tokenise(self.tokenizer, texts, max_words=self.config.max_words, device=self.device)

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        flat = normalise(pixels.flatten(0, 1), self.pixels, device=self.device, dtype=self.dtype)
        return flat.unflatten(0, pixels.shape[:2])


def _public(vectors: torch.Tensor) -> Vectors:
    return {"embedding": functional.normalize(vectors.float(), dim=-1).cpu().numpy()}
