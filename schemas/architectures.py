"""Settings of the architectures: the shape of each, and what it is trained for. Unknowns of the papers are switches."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.configs import Config, Fraction, Positive

Weight = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class SmallText(Config):
    """A BERT of our own, trained from nothing on the words of the training captions."""

    width: Positive = 128
    layers: Positive = 2
    heads: Positive = 4
    dropout: Fraction = 0.0


class Settings(Config):
    """What all architectures have; see encoders.architectures.base.RetrievalConfig."""

    vision: str | None = None  # hub id or folder of a Hugging Face vision backbone; null: convolutional grid
    text: str | None = None  # hub id or folder of a BERT-like encoder; null: small_text
    small_text: SmallText = SmallText()
    image_size: Positive = 64  # pixels a side
    grid: Positive = 4  # tokens a side of the convolutional grid
    visual_width: Positive = 128
    visual_layers: Annotated[int, Field(ge=0)] = 2
    visual_heads: Positive = 4
    visual_dropout: Fraction = 0.0  # of the vision backbone's channels
    spatial_positions: bool = True
    max_frames: Annotated[int, Field(ge=0)] = 4  # 0: time is not seen
    frames: Positive = 4  # sampled from a clip
    text_pool: Literal["cls", "mean"] = "cls"
    max_words: Positive = 32  # tokens, the special ones included
    embedding_dim: Positive = 32
    position_std: PositiveFloat = 0.5  # of position and token embeddings at the start
    temperature: PositiveFloat = 0.07


class LoopITRSettings(Settings):
    """Shape of a LoopITR; see encoders.architectures.loopitr.LoopITRConfig."""

    architecture: Literal["loopitr"] = "loopitr"
    fusion_layers: Positive = 3
    fusion_heads: Positive = 4
    fusion_dropout: Fraction = 0.0
    match_score: Literal["difference", "match"] = "difference"


class LoopITRLosses(Config):
    """Weights and switches of LoopITR's losses."""

    architecture: Literal["loopitr"] = "loopitr"
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


class FastSlowSettings(Settings):
    """Shape of Thinking Fast and Slow; see encoders.architectures.fast_slow.FastSlowConfig."""

    architecture: Literal["fast_slow"] = "fast_slow"


class FastSlowLosses(Config):
    """Weights and switches of Thinking Fast and Slow's losses."""

    architecture: Literal["fast_slow"] = "fast_slow"


class VLDeformerSettings(Settings):
    """Shape of a VLDeformer; see encoders.architectures.vldeformer.VLDeformerConfig."""

    architecture: Literal["vldeformer"] = "vldeformer"


class VLDeformerLosses(Config):
    """Weights and switches of VLDeformer's losses."""

    architecture: Literal["vldeformer"] = "vldeformer"


class CooperativeSettings(Settings):
    """Shape of Retrieve Fast, Rerank Smart; see encoders.architectures.cooperative.CooperativeConfig."""

    architecture: Literal["cooperative"] = "cooperative"


class CooperativeLosses(Config):
    """Weights and switches of the losses of Retrieve Fast, Rerank Smart."""

    architecture: Literal["cooperative"] = "cooperative"


class HiVLPSettings(Settings):
    """Shape of a HiVLP; see encoders.architectures.hivlp.HiVLPConfig."""

    architecture: Literal["hivlp"] = "hivlp"


class HiVLPLosses(Config):
    """Weights and switches of HiVLP's losses."""

    architecture: Literal["hivlp"] = "hivlp"


AnySettings = Annotated[
    LoopITRSettings | FastSlowSettings | VLDeformerSettings | CooperativeSettings | HiVLPSettings,
    Field(discriminator="architecture"),
]
AnyLosses = Annotated[
    LoopITRLosses | FastSlowLosses | VLDeformerLosses | CooperativeLosses | HiVLPLosses,
    Field(discriminator="architecture"),
]
