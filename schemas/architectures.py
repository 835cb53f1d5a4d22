"""Settings of the architectures: the shape of each, and what it is trained for. Unknowns of the papers are switches."""

from typing import Annotated, Any, Literal, Self

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
    segments: Positive = 1  # kinds of text that have an embedding of their own


class Settings(Config):
    """What all architectures have; see encoders.architectures.base.RetrievalConfig."""

    vision: str | None = (
        None  # hub id or folder of a Hugging Face vision backbone, or of a checkpoint with one; null: grid
    )
    text: str | None = None  # hub id or folder of a BERT-like encoder; null: small_text
    text_depth: Annotated[int, Field(ge=0)] = 0  # its first layers alone, as many; 0: all
    small_text: SmallText = SmallText()
    vision_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()  # hidden states that join the last one
    vision_top: Annotated[int, Field(ge=0)] = 0  # last layers that learn above a frozen rest; MobileNetV2, EfficientNet
    vision_side: Annotated[int, Field(ge=0)] = 0  # cells a side its maps are averaged to; 0: as they are
    image_size: Positive = 64  # pixels a side
    resize: Literal["backbone", "squash"] = "backbone"  # "squash": the whole picture, whatever the backbone's files say
    grid: Positive = 4  # tokens a side of the convolutional grid
    visual_width: Positive = 128
    visual_layers: Annotated[int, Field(ge=0)] = 2
    visual_heads: Positive = 4
    visual_norm: Literal["none", "batch"] = "none"  # of the vision backbone's channels
    visual_dropout: Fraction = 0.0  # of the vision backbone's channels
    visual_pool: Literal["attention", "backbone"] = "attention"  # vectors from tokens, or from the backbone's mean
    spatial_positions: bool = True
    max_frames: Annotated[int, Field(ge=0)] = 4  # 0: time is not seen
    frames: Positive = 4  # sampled from a clip
    text_pool: Literal["cls", "mean"] = "cls"
    text_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()  # hidden states pooled beside the last one
    text_norm: Literal["none", "batch"] = "none"  # of the pooled text's channels
    max_words: Positive = 32  # tokens, the special ones included
    embedding_dim: Positive = 32
    head_hidden: Annotated[int, Field(ge=0)] = 0  # of the heads that make vectors; 0: linear
    head_dropout: Fraction = 0.0
    position_std: PositiveFloat = 0.5  # of position and token embeddings at the start
    temperature: PositiveFloat = 0.07


class Losses(Config):
    """What all architectures can learn from beside their own losses: slow scores of an earlier rerank."""

    rankings: Weight = 1.0  # where `data.rankings` are
    rankings_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.45  # of the teacher, as share of the largest possible


class LoopITRSettings(Settings):
    """Shape of a LoopITR; see encoders.architectures.loopitr.LoopITRConfig."""

    architecture: Literal["loopitr"] = "loopitr"
    fusion_layers: Positive = 3
    fusion_heads: Positive = 4
    fusion_dropout: Fraction = 0.0
    match_score: Literal["difference", "match"] = "difference"
    visual_mirror: bool = False  # a picture's vector is the mean of its own and its mirror image's
    heads: Positive = 1  # pairs that learn on their own and share embedding_dim: an ensemble in one vector

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.embedding_dim % self.heads:
            raise ValueError(
                f"heads: expected embedding_dim {self.embedding_dim} to be a multiple of it, got {self.heads}"
            )
        return self


class LoopITRLosses(Losses):
    """Weights and switches of LoopITR's losses."""

    architecture: Literal["loopitr"] = "loopitr"
    contrast: Weight = 1.0
    matching: Weight = 1.0
    negatives: Positive = 2  # m a side
    match_rows: Positive | None = None  # captions of a batch, and pictures, that pairs are scored of; null: all
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
    slow_visual_layers: Annotated[int, Field(ge=0)] = 2  # of the slow side's own tower
    levels: Annotated[int, Field(ge=1, le=3)] = 2  # feature maps, each with twice the cells a side of the one before
    decoder_levels: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()  # by layer; empty: shallow coarse, deep fine
    decoder_layers: Positive = 2  # of each direction
    decoder_width: Positive = 128
    decoder_heads: Positive = 4
    decoder_dropout: Fraction = 0.0
    directions: Literal["both", "forward"] = "both"
    share_directions: Literal["embeddings", "all"] = "embeddings"  # "all": one decoder reads both ways
    decoder_words: Literal["own", "text"] = (
        "own"  # "text": the pretrained text's word vectors, fixed, those captions use
    )

    @model_validator(mode="after")
    def _words_of_a_pretrained_text(self) -> Self:
        if self.decoder_words == "text" and self.text is None:
            raise ValueError("decoder_words: 'text' takes the words of a pretrained text encoder; set model.text")
        return self

    @model_validator(mode="after")
    def _levels_that_exist(self) -> Self:
        chosen = self.decoder_levels
        if chosen and (len(chosen) != self.decoder_layers or max(chosen) >= self.levels):
            raise ValueError(
                f"decoder_levels: expected {self.decoder_layers} numbers below {self.levels}, got {list(chosen)}"
            )
        return self


class FastSlowLosses(Losses):
    """Weights and switches of Thinking Fast and Slow's losses."""

    architecture: Literal["fast_slow"] = "fast_slow"
    caption: Weight = 1.0
    caption_reduction: Literal["sum", "mean"] = "sum"  # nats a caption (paper), or nats a word
    contrast: Weight = 1.0
    distillation: Weight = 1.0  # alpha
    mutual: Weight = 1.0  # in the stage "mutual"
    candidates: Annotated[int, Field(ge=2)] = 8  # |B_i|: pictures a text that the slow side scores, its own included
    candidate_choice: Literal["sampled", "top", "random"] = "top"  # by the fast side of the moment
    distillation_temperature: PositiveFloat | Literal["calibrate_entropy"] = "calibrate_entropy"  # tau_d
    teacher_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.45  # of "calibrate_entropy": share of log |B_i|
    student_temperature: PositiveFloat | None = None  # tau_d'; null: that of the contrast


class VLDeformerSettings(Settings):
    """Shape of a VLDeformer; see encoders.architectures.vldeformer.VLDeformerConfig."""

    architecture: Literal["vldeformer"] = "vldeformer"
    small_text: SmallText = SmallText(segments=2)  # tags are the second kind of text
    stream: Literal["backbone", "blocks"] = "backbone"  # the text encoder's own layers, or pre-norm ones of ours
    stream_layers: Positive = 4  # of "blocks"
    stream_heads: Positive = 4
    stream_dropout: Fraction = 0.0  # of "blocks" and of regions
    tags: Literal["none", "predicted"] = "predicted"
    tag_words: Positive = 8  # a picture or clip
    pooling: Literal["mean_masked", "mean_all"] = "mean_masked"  # "mean_all", padding too: the authors' code
    pool_dropout: Fraction = 0.1
    projection: bool = False  # to embedding_dim; False: vectors as wide as the stream (paper)
    temperature: PositiveFloat = 0.02  # fixed; the authors' 0.005 saturates below 256 pairs
    match_score: Literal["difference", "match"] = "difference"


class VLDeformerLosses(Losses):
    """Weights and switches of VLDeformer's losses."""

    architecture: Literal["vldeformer"] = "vldeformer"
    matching: Weight = 1.0
    negatives: Positive = 1  # m: mismatched pairs for each that matches
    negative_choice: Literal["random", "lexical"] = "random"  # "lexical": of captions with nearly the same words
    overlap_temperature: PositiveFloat = 0.02  # of "lexical": the smaller, the nearer
    masked_words: Weight = 0.0
    masking: Literal["categories", "words"] = "words"  # "categories": all words of one category of the source
    mask_fraction: Fraction = 0.3  # of "words"
    tags: Weight = 1.0  # of the tag predictor, where there is one
    contrast: Weight = 1.0
    contrast_kind: Literal["info_nce", "triplet"] = "info_nce"
    margin: PositiveFloat = 1.0  # of "triplet"


class CooperativeSettings(Settings):
    """Shape of Retrieve Fast, Rerank Smart; see encoders.architectures.cooperative.CooperativeConfig."""

    architecture: Literal["cooperative"] = "cooperative"
    share: Literal["all", "none"] = "all"  # JOIN: one transformer for both sides, or SEP: two
    stream: Literal["backbone", "blocks"] = "backbone"  # the text encoder's own layers, or pre-norm ones of ours
    stream_layers: Positive = 4  # of "blocks"
    stream_heads: Positive = 4
    stream_dropout: Fraction = 0.0  # of "blocks" and of regions
    text_pool: Literal["cls", "mean"] = "mean"  # of texts and of pictures
    projection: bool = False  # to embedding_dim; False: vectors as wide as the stream (paper)
    match_dropout: Fraction = 0.1
    match_score: Literal["difference", "match"] = "difference"  # "match", l1 alone: the authors' code
    temperature: PositiveFloat = 0.05  # fixed; of drawn negatives and of "info_nce"

    @model_validator(mode="after")
    def _layers_of_a_pretrained_text(self) -> Self:
        if self.text is not None and self.stream != "backbone":
            raise ValueError(f"stream: {self.stream!r} has no use for the layers of text {self.text}; use 'backbone'")
        return self


class CooperativeLosses(Losses):
    """Weights and switches of the losses of Retrieve Fast, Rerank Smart."""

    architecture: Literal["cooperative"] = "cooperative"
    twin: Weight = 1.0
    twin_loss: Literal["hardest_triplet", "mean_triplet", "info_nce"] = "hardest_triplet"
    margin: PositiveFloat = 0.1  # of cosines
    matching: Weight = 1.0
    negatives: Positive = 1  # m: mismatched pairs for each that matches
    negative_choice: Literal["random", "sampled", "top"] = "random"  # others than "random": hard ones, by the twin
    masked_words: Weight = 0.0  # beside matching; the stage "words" has nothing else
    masking: Literal["categories", "words"] = "words"  # "categories": all words of one category of the source
    mask_fraction: Fraction = 0.3  # of "words"


class HiVLPSettings(Settings):
    """Shape of a HiVLP; see encoders.architectures.hivlp.HiVLPConfig."""

    architecture: Literal["hivlp"] = "hivlp"
    dims: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 64)  # d_1 < ... < d_M
    embedding_dim: Positive = 64  # d_M; follows from dims
    hierarchy: Literal["heads", "depth", "nested"] = "heads"  # heads of their own, on earlier layers too; or prefixes
    temperatures: Literal["each", "shared"] = "each"  # a level's own, or one for all
    fusion_layers: Positive = 3
    fusion_heads: Positive = 4
    fusion_dropout: Fraction = 0.0
    match_score: Literal["difference", "match"] = "difference"

    @model_validator(mode="before")
    @classmethod
    def _finest_is_the_last(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("dims"):
            return {"embedding_dim": value["dims"][-1], **value}
        return value

    @model_validator(mode="after")
    def _dims_rise(self) -> Self:
        if list(self.dims) != sorted(set(self.dims)):
            raise ValueError(f"dims: expected widths that rise, got {list(self.dims)}")
        if self.embedding_dim != self.dims[-1]:
            raise ValueError(f"embedding_dim: expected the last of dims, {self.dims[-1]}, got {self.embedding_dim}")
        return self


class HiVLPLosses(Losses):
    """Weights and switches of HiVLP's losses."""

    architecture: Literal["hivlp"] = "hivlp"
    level_weights: tuple[Weight, ...] = ()  # lambda_m; empty: 1 for every level
    fine_to_coarse_kl: Weight = 0.0  # the finest level teaches the others
    curriculum: Positive | None = None  # k: a level contrasts with the k nearest of the level below; null: with all
    matching: Weight = 1.0
    negatives: Positive = 2  # m a side
    negative_choice: Literal["sampled", "top", "random"] = "sampled"
    mining_temperature: PositiveFloat | None = None  # of "sampled": the smaller, the harder; null: that of the finest
    masked_words: Weight = 1.0
    masking: Literal["categories", "words"] = "words"  # "categories": all words of one category of the source
    mask_fraction: Fraction = 0.3  # of "words"


AnySettings = Annotated[
    LoopITRSettings | FastSlowSettings | VLDeformerSettings | CooperativeSettings | HiVLPSettings,
    Field(discriminator="architecture"),
]
AnyLosses = Annotated[
    LoopITRLosses | FastSlowLosses | VLDeformerLosses | CooperativeLosses | HiVLPLosses,
    Field(discriminator="architecture"),
]
