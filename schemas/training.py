"""The training config: model, losses, data, schedule; strict YAML like all configs."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.architectures import AnyLosses, AnySettings, PositiveFloat, Weight
from schemas.configs import Config, Fraction, Positive


class SceneStage(Config):
    """Part of the curriculum: from this step on, scenes have this many things."""

    from_step: Annotated[int, Field(ge=0)]
    objects: Annotated[int, Field(ge=1, le=4)]


class SceneData(Config):
    """Fresh scenes and clips each step, every one beside a sibling; no caption of the held-out set is ever drawn."""

    kind: Literal["scenes"] = "scenes"
    curriculum: tuple[SceneStage, ...] = (SceneStage(from_step=0, objects=4),)
    earlier_share: Fraction = 0.1  # of each batch comes from earlier stages
    video_share: Fraction = 0.25  # of each batch
    videos_from_step: Annotated[int, Field(ge=0)] = 0
    family: Literal[2, 4] = 2  # members of a family in a batch: a scene and one sibling, or all four
    render_size: Positive = 128  # pixels a side before JPEG and resizing
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    holdout_images: Annotated[int, Field(ge=0)] = 2000  # the demo's gallery: as `prepare demo` makes it
    holdout_videos: Annotated[int, Field(ge=0)] = 240
    holdout_seed: int = 20_000
    validation_images: Annotated[int, Field(ge=4)] = 512
    validation_videos: Annotated[int, Field(ge=0)] = 64
    validation_seed: int = 40_000


class FromRankings(Config):
    """Rankings of a published generation: of the training pictures, asked for with their captions."""

    root: str  # output root it was published under
    dataset: str
    generation: Positive | None = None  # null: the one being served
    hard_share: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of a batch: candidates of the other captions, beside them


class ShardData(Config):
    """Captioned images of WebDataset shards, decoded once into memory."""

    kind: Literal["shards"] = "shards"
    train: tuple[str, ...] = ()  # URLs, brace patterns or globs; empty: given on the command line
    validation: tuple[str, ...] = ()
    caption_fields: tuple[str, ...] = ("captions", "caption", "text")
    rankings: FromRankings | None = None  # hard negatives and teacher scores; see losses.rankings
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.6  # smallest share of the picture a random crop keeps
    flip: bool = True  # left and right exchanged in half of the pictures
    colour_jitter: Fraction = 0.2
    cached_views: Annotated[int, Field(ge=0)] = 0  # of a frozen vision backbone: features of as many views a picture
    feature_folder: str | None = None  # where they stay, for other runs; null: beside the checkpoints, until the end


class Optimizer(Config):
    """AdamW with warm-up and a cosine."""

    lr: PositiveFloat = 5e-4
    final_lr_fraction: Fraction = 0.02
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: Weight = 0.02  # not on norms, biases and embeddings
    beta2: Fraction = 0.98
    clip_norm: PositiveFloat = 1.0
    vision_lr_factor: Weight = 1.0  # of the vision backbone; 0 freezes it
    text_lr_factor: Weight = 1.0
    freeze_word_embeddings: bool = False


class Validation(Config):
    """What is measured while training, on the validation set, text to image."""

    every: Positive = 500  # steps
    depth: Positive = 20  # K: candidates reranked
    max_queries: Positive = 1000
    best: Literal["fast_r1", "reranked_r1", "sum_r1"] = "sum_r1"  # the step exported is the best by this
    patience: Positive | None = None  # validations without a better one that end the training; null: never


class TrainStage(Config):
    """From this step on, the architecture is trained in this way; each stage has a warm-up and a cosine of its own."""

    name: str
    from_step: Annotated[int, Field(ge=0)]
    lr_factor: PositiveFloat = 1.0


class TrainConfig(Config):
    """One training run."""

    name: str
    seed: int = 0
    steps: Positive
    initial: str | None = None  # trained checkpoint of the same shape to begin from: a folder, or builtin:<name>
    stages: tuple[TrainStage, ...] = ()  # empty: the architecture's usual one
    batch_size: Positive  # captions with their pictures, a process
    model: AnySettings
    losses: AnyLosses
    data: Annotated[SceneData | ShardData, Field(discriminator="kind")]
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()
    checkpoint_every: Positive = 1000  # steps
    log_every: Positive = 20  # steps
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the machine has it
    deterministic: bool = False  # also on GPUs, where it is slower
    workers: Annotated[int, Field(ge=0)] | None = None  # processes that make batches; null: one a spare core
    export_dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="before")
    @classmethod
    def _losses_of_the_architecture(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
            return value
        losses = value.get("losses") or {}
        if not isinstance(losses, dict):
            return value
        return value | {"losses": {"architecture": value["model"].get("architecture"), **losses}}

    @model_validator(mode="after")
    def _stages_in_order(self) -> Self:
        starts = [stage.from_step for stage in self.stages]
        if starts and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= self.steps):
            raise ValueError(f"stages: expected from_step to rise from 0 to below {self.steps}, got {starts}")
        if self.model.architecture != self.losses.architecture:
            raise ValueError(f"losses of {self.losses.architecture} for a model of {self.model.architecture}")
        return self

    @model_validator(mode="after")
    def _cached_means_frozen(self) -> Self:
        cached = isinstance(self.data, ShardData) and self.data.cached_views > 0
        learns = self.optimizer.vision_lr_factor != 0
        if cached and (self.model.vision is None or (learns and not self.model.vision_top)):
            raise ValueError(
                "data.cached_views needs a model.vision, and optimizer.vision_lr_factor 0 (frozen) or model.vision_top"
            )
        return self
