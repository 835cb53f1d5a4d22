"""What training, validation and search need of an architecture: its config, its network, its losses, its stages.

Letters: B items or texts, F frames (1 for an image), V visual tokens an item, C their width, L words, P pairs,
  T distinct texts, D embedding, H W pixels.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from encoders.losses import distillation, entropy_temperature
from encoders.towers import VisualTower
from encoders.training.batches import Inputs
from encoders.training.memo import TextMemo
from schemas.errors import ModelError


class RetrievalConfig(PreTrainedConfig):
    """What decides the shape of every architecture; embeds its backbones' configs, so a checkpoint is whole.

    Attributes:
      vision_config: of a Hugging Face vision backbone (with its model_type); None: the convolutional grid.
      text_config: of a BERT-like text encoder (with its model_type).
      vision_layers: hidden states of the vision backbone whose channels join those of its last one: what earlier
        layers see (colours, textures, parts) is lost in the last one of a frozen classifier.
      vision_top: last layers of the vision backbone that learn, above a frozen rest; 0: all of it learns, or none.
      vision_side: cells a side that the backbone's maps are averaged to; 1: one token a frame, 0: as they are.
      image_size: pixels a side of the input.
      grid: tokens a side of the convolutional grid.
      frame_tokens: tokens the vision backbone makes of one frame.
      backbone_width: their width.
      visual_width: C.
      visual_layers: transformer layers over all F * V tokens, above the backbone.
      visual_norm: "batch" brings each channel of the backbone to mean 0 and variance 1, by running statistics of the
        training pictures: channels of a frozen backbone differ much in scale. "none" leaves them.
      visual_dropout: share of the backbone's channels hidden while training, the same in all tokens of a frame.
      spatial_positions: learnt positions are added to the tokens of a frame (for backbones that have none).
      max_frames: times that have an embedding of their own; other frame counts interpolate. 0: time is not seen.
      frames: frames sampled from a clip.
      visual_pool: "attention", the vector is pooled from the tokens; "backbone", from the backbone's features
        themselves, past all that is learnt above it.
      text_pool: "cls" or "mean".
      text_layers: hidden states of the text tower that are pooled beside the last one: a tower made for the likeness of
        sentences forgets words that pictures show.
      text_norm: "batch" brings each channel of the pooled text to mean 0 and variance 1, as `visual_norm` does.
      max_words: longest text in tokens, with its special ones.
      embedding_dim: D.
      head_hidden: width of the hidden layer of the heads that make vectors; 0: the heads are linear.
      head_dropout: before each of their layers.
      position_std: scale of position and token embeddings at the start; a bag of words is all that is learnt where
        positions are much smaller than tokens.
      temperature: of the contrast at the start.
      cls_token_id, sep_token_id: of the tokenizer: the tokens that texts start and end with.
    """

    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    vision_layers: list[int] | tuple[int, ...] = ()
    vision_top: int = 0
    vision_side: int = 0
    image_size: int = 64
    grid: int = 4
    frame_tokens: int = 16
    backbone_width: int = 128
    visual_width: int = 128
    visual_layers: int = 2
    visual_heads: int = 4
    visual_norm: str = "none"
    visual_dropout: float = 0.0
    visual_pool: str = "attention"
    spatial_positions: bool = True
    max_frames: int = 4
    frames: int = 4
    text_pool: str = "cls"
    text_layers: list[int] | tuple[int, ...] = ()
    text_norm: str = "none"
    max_words: int = 32
    embedding_dim: int = 32
    head_hidden: int = 0
    head_dropout: float = 0.0
    position_std: float = 0.5
    temperature: float = 0.07
    cls_token_id: int | None = None
    sep_token_id: int | None = None


@dataclass(frozen=True)
class Stage:
    """One way an architecture can be trained for a while.

    Attributes:
      tasks: what its objective is asked for; several take turns, one a step.
      frozen: submodules that are teachers only: in eval mode and without gradients.
      fast: the vectors mean something by now, so that validation can take its candidates by them.
    """

    tasks: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    fast: bool = True


class RetrievalModel(PreTrainedModel):
    """A network with a fast side (vectors) and a slow side (scores of pairs).

    `visual` is everywhere either normalised pixels, float (B, F, 3, H, W), or what the frozen vision backbone, or the
    frozen part of it, made of them, float (B, F, V, C_backbone).
    """

    config_class = RetrievalConfig
    main_input_name = "visual"
    _no_split_modules = []  # noqa: RUF012  (transformers declares it)

    STAGES: ClassVar[dict[str, Stage]] = {}
    """By name; the first is what a config without `stages` trains."""

    BACKBONES: dict[str, tuple[str, ...]] = {"vision": ("vision.backbone",), "text": ("text",)}
    """Submodules that can start from pretrained weights and have a learning rate of their own."""

    TEXT_ALONE: ClassVar[bool] = True
    """The text tower reads without a picture: what a frozen one makes of a text can be remembered."""

    frozen: tuple[str, ...] = ()
    """Submodules kept in eval mode: those of the stage, and backbones that do not learn."""

    text_memo: TextMemo | None = None
    """What the frozen text tower makes of the training captions."""

    @property
    def dims(self) -> dict[str, int]:
        """Width of each vector column; the finest is `embedding`, coarser ones are `embedding_<D>`."""
        return {"embedding": int(self.config.embedding_dim)}

    def backbone_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the vision backbone makes of frames (B, 3, H, W): (B, V, C_backbone). Can be cached while frozen."""
        tower: VisualTower = self.get_submodule(self.BACKBONES["vision"][0].rpartition(".")[0])  # type: ignore[assignment]
        return tower.features(pixels)

    def text_states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the text tower makes of word ids int64 (B, L); `mask` bool (B, L), True at words.

        Returns:
          States of the last layer, then those of `text_layers`, (B, L, T (1 + layers)).

        Raises:
          ModelError: the text tower has fewer layers.
        """
        known = self.text_memo.find(ids, mask) if self.text_memo is not None else None
        return self.read_text(ids, mask) if known is None else known

    def read_text(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`text_states` of texts that have not been read before."""
        chosen, tower = list(self.config.text_layers), self.get_submodule(self.BACKBONES["text"][0])
        read = tower(input_ids=ids, attention_mask=mask.long(), output_hidden_states=bool(chosen))
        if chosen and max(chosen) >= len(read.hidden_states):
            raise ModelError(f"text_layers: expected numbers below {len(read.hidden_states)}, got {chosen}")
        return torch.cat([read.last_hidden_state, *(read.hidden_states[layer] for layer in chosen)], -1)

    def text_vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unit vectors (B, D) by column, of word ids int64 (B, L); `mask` bool (B, L), True at words."""
        raise NotImplementedError

    def visual_vectors(self, visual: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unit vectors (B, D) by column."""
        raise NotImplementedError

    def visual_cache(self, visual: torch.Tensor) -> torch.Tensor:
        """What of an item the slow side needs and no text changes: (B, V, C)."""
        raise NotImplementedError

    def pair_scores(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        cache: torch.Tensor,
        cache_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """How well texts and items match, (P,), higher is better.

        Args:
          ids, mask: int64 and bool (T, L), the distinct texts.
          rows: int64 (P,), the text of each pair.
          cache: (P, V, C), of `visual_cache`, the item of each pair.
          cache_mask: bool (P, V), False at padding.
        """
        raise NotImplementedError

    def backbones_loaded(self) -> None:
        """Called once on a new model whose backbones have their first weights, for what begins as a copy of them."""

    def enter_stage(self, name: str) -> None:
        """Called once, before the first step of a stage (not when a run is resumed within it)."""

    def train(self, mode: bool = True) -> "RetrievalModel":
        """As usual, but teachers stay in eval mode, and batch norms keep their stored statistics."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

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
        elif isinstance(module, VisualTower):
            for table in (module.space, module.time):
                if table is not None:
                    nn.init.normal_(table, std=self.config.position_std)


class Objective(nn.Module):
    """The training losses; the whole of a step is one forward, so that gradients can be averaged over processes."""

    category: torch.Tensor | None

    def __init__(self, model: Any, losses: Any, *, mask_id: int, category: torch.Tensor | None) -> None:
        """Wraps a model.

        Args:
          model: of the architecture.
          losses: its config of the losses.
          mask_id: token that hides a word.
          category: int64 (vocabulary,), for masking by category; -1: none.
        """
        super().__init__()
        self.model = model
        self.losses = losses
        self.mask_id = mask_id
        self.register_buffer("category", category, persistent=False)

    def learn_rankings(
        self, inputs: Inputs, similarity: torch.Tensor, temperature: torch.Tensor | float
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What an earlier rerank teaches the fast side: the loss by name, none without a teacher, and it weighted.

        The teacher's scores may be of any scale; they are brought to the temperature at which they are as undecided
        as `losses.rankings_entropy` says. Captions with fewer than two scored pictures in the batch teach nothing.

        Args:
          similarity: cosines (B, B) of captions and pictures.
          temperature: of the contrast.
        """
        if inputs.teacher is None or not self.losses.rankings:
            return {}, similarity.new_zeros(())
        rows = (~inputs.teacher.isnan()).sum(1) > 1
        if not rows.any():
            return {"rankings": similarity.new_zeros(())}, similarity.new_zeros(())
        teacher, student = inputs.teacher[rows], similarity[rows] / temperature
        valid = ~teacher.isnan()
        teacher = teacher.nan_to_num(0.0)
        softness = entropy_temperature(teacher, valid, share=self.losses.rankings_entropy)
        loss = distillation(teacher, student, valid, temperature=softness, kind="kl")
        return {"rankings": loss}, self.losses.rankings * loss

    def forward(
        self, inputs: Inputs, *, task: str, progress: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Losses by name, each a scalar, unweighted, and their weighted "total".

        Args:
          inputs: a batch.
          task: one of those of the stage.
          progress: share of the stage done.
          generator: on the batch's device; all chance comes from it.
        """
        raise NotImplementedError
