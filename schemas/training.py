"""The training config: model, losses, data, schedule; strict YAML like all configs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.configs import Config, Fraction, Positive

Weight = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class SmallText(Config):
    """A BERT of our own, trained from nothing on the words of the training captions."""

    width: Positive = 128
    layers: Positive = 2
    heads: Positive = 4
    dropout: Fraction = 0.0


class LoopITRSettings(Config):
    """Shape of a LoopITR; see encoders.architectures.loopitr.LoopITRConfig."""

    architecture: Literal["loopitr"] = "loopitr"
    vision: str | None = None  # hub id or folder of a Hugging Face vision backbone; null: convolutional grid
    text: str | None = None  # hub id or folder of a BERT-like encoder; null: small_text
    small_text: SmallText = SmallText()
    image_size: Positive = 64  # pixels a side
    grid: Positive = 4  # tokens a side of the convolutional grid
    visual_width: Positive = 128
    visual_layers: Annotated[int, Field(ge=0)] = 2
    visual_heads: Positive = 4
    spatial_positions: bool = True
    max_frames: Annotated[int, Field(ge=0)] = 4  # 0: time is not seen
    frames: Positive = 4  # sampled from a clip
    text_pool: Literal["cls", "mean"] = "cls"
    max_words: Positive = 32  # tokens, the special ones included
    fusion_layers: Positive = 3
    fusion_heads: Positive = 4
    fusion_dropout: Fraction = 0.0
    embedding_dim: Positive = 32
    position_std: PositiveFloat = 0.5  # of position and token embeddings at the start
    temperature: PositiveFloat = 0.07
    match_score: Literal["difference", "match"] = "difference"


class LoopITRLosses(Config):
    """The unknowns of the paper, each a switch (defaults: the specification's)."""

    contrast: Weight = 1.0
    matching: Weight = 1.0
    negatives: Positive = 2  # m a side
    negative_choice: Literal["sampled", "top", "random"] = "sampled"
    mining_temperature: PositiveFloat | None = None  # of "sampled": the smaller, the harder; null: that of the contrast
    distillation: Weight = 1.0
    distillation_start: Fraction = 0.5  # share of the steps before it begins: a teacher must lead
    distillation_temperature: PositiveFloat = 1.0
    distillation_kind: Literal["kl", "ce", "mse"] = "kl"
    stop_gradient: bool = True  # False lets the student pull the teacher (an ablation)
    masked_words: Weight = 1.0
    masking: Literal["categories", "words"] = "words"  # "categories": all words of one category of the source
    mask_fraction: Fraction = 0.3  # of "words"


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


class ShardData(Config):
    """Captioned images of WebDataset shards, decoded once into memory."""

    kind: Literal["shards"] = "shards"
    train: tuple[str, ...] = ()  # URLs, brace patterns or globs; empty: given on the command line
    validation: tuple[str, ...] = ()
    caption_fields: tuple[str, ...] = ("captions", "caption", "text")
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.6  # smallest share of the picture a random crop keeps
    flip: bool = True  # left and right exchanged in half of the pictures
    colour_jitter: Fraction = 0.2
    cache_features: bool = False  # of a frozen vision backbone: computed once; of augmentation only `flip` is left


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


class TrainConfig(Config):
    """One training run."""

    name: str
    seed: int = 0
    steps: Positive
    batch_size: Positive  # captions with their pictures, a process
    model: LoopITRSettings
    losses: LoopITRLosses = LoopITRLosses()
    data: Annotated[SceneData | ShardData, Field(discriminator="kind")]
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()
    checkpoint_every: Positive = 1000  # steps
    log_every: Positive = 20  # steps
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU that has it
    deterministic: bool = False  # also on GPUs, where it is slower
    workers: Annotated[int, Field(ge=0)] | None = None  # processes that make batches; null: one a spare core
    export_dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _cached_means_frozen(self) -> Self:
        cached = isinstance(self.data, ShardData) and self.data.cache_features
        if cached and (self.model.vision is None or self.optimizer.vision_lr_factor != 0):
            raise ValueError("data.cache_features needs a model.vision and optimizer.vision_lr_factor 0 (frozen)")
        return self
