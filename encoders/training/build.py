"""A model with its tokenizer and pixel spec, from a training config and the words of the captions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from encoders.architectures import MODEL_TYPE, classes, model_class
from encoders.architectures.base import RetrievalModel
from encoders.backbones import build_backbone, load_backbone
from encoders.base import PixelSpec
from encoders.model_files import read_json
from encoders.pixels import HALF, read_spec
from encoders.sources import resolve
from encoders.top_layers import learnt
from encoders.towers import averaged, grid_features
from schemas.architectures import FastSlowSettings, Settings
from schemas.configs import EncoderConfig
from schemas.errors import ModelError
from schemas.training import TrainConfig

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Built:
    """Everything of a model before training.

    Attributes:
      factors: learning-rate factor by submodule, for those that come with weights; parts before their whole.
    """

    model: RetrievalModel
    tokenizer: PreTrainedTokenizerFast
    spec: PixelSpec
    factors: dict[str, float]


def build(config: TrainConfig, words: Sequence[str]) -> Built:
    """The model of a config, seeded.

    Args:
      words: of the training captions; the vocabulary of a text encoder trained from nothing.

    Raises:
      ModelError: a backbone cannot be had.
    """
    settings = config.model
    torch.manual_seed(config.seed)
    initial = resolve(EncoderConfig(path=config.initial)) if config.initial else None
    vision = load_vision(settings.vision) if settings.vision else None
    text = load_backbone(settings.text, part="text", depth=settings.text_depth) if settings.text else None
    if initial:  # of our own making: AutoTokenizer would look for a model of its kind
        tokenizer = PreTrainedTokenizerFast.from_pretrained(initial)
    elif settings.text:
        tokenizer = load_tokenizer(settings.text)
    else:
        tokenizer = word_tokenizer(words, max_words=settings.max_words)
    text_config = (
        text[0] if text else small_text_config(settings, vocabulary=len(tokenizer), pad=tokenizer.pad_token_id)
    )
    spec = pixel_spec(settings)
    frame_tokens, width = settings.grid**2, settings.visual_width
    if vision:
        frame_tokens, width = _feature_shape(vision[0], spec, settings)
    told: dict[str, Any] = {}
    if isinstance(settings, FastSlowSettings) and settings.decoder_words == "text":
        told["decoder_vocabulary"] = tokens_of(tokenizer, words)
    network, _ = classes(settings.architecture)
    model = network(
        network.config_class(
            vision_config=vision[0] if vision else None,
            text_config=text_config,
            frame_tokens=frame_tokens,
            backbone_width=width,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            **settings.model_dump(exclude={"architecture", "vision", "text", "text_depth", "small_text", "resize"}),
            **told,
        )
    )
    factors: dict[str, float] = {}
    loaded = (("vision", vision, config.optimizer.vision_lr_factor), ("text", text, config.optimizer.text_lr_factor))
    for kind, backbone, factor in loaded:
        for name in model.BACKBONES[kind]:
            if backbone:
                tower = model.get_submodule(name)
                tower.load_state_dict(backbone[1])
                top = learnt(tower, settings.vision_top) if kind == "vision" and settings.vision_top else []
                factors |= {f"{name}.{part}": factor for part in top}
                factors[name] = 0.0 if top else factor
            elif kind == "text":
                start_small_text(model.get_submodule(name), std=settings.position_std)
    model.backbones_loaded()
    if initial:
        load_initial(model, initial)
    return Built(model, tokenizer, spec, factors)


def load_vision(path: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and float32 weights of a vision backbone: see `load_backbone`; or of that within a checkpoint of ours.

    Raises:
      ModelError: see `load_backbone`; the checkpoint has a convolutional grid of its own instead.
    """
    folder = Path(path).expanduser()
    found = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not str(found.get("model_type")).startswith(MODEL_TYPE.format("")):
        return load_backbone(path, part="vision")
    if not found.get("vision_config"):
        raise ModelError(
            f"vision backbone {path}: expected a checkpoint with a Hugging Face one, it has a grid of its own"
        )
    prefix = f"{model_class(folder).BACKBONES['vision'][0]}."
    weights = {
        name.removeprefix(prefix): weight.float() if weight.is_floating_point() else weight
        for name, weight in load_file(folder / "model.safetensors").items()
        if name.startswith(prefix)
    }
    return found["vision_config"], weights


def tokens_of(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> list[int]:
    """Token ids of words and of what stands around them, rising."""
    found = tokenizer(sorted(set(words)), add_special_tokens=False)["input_ids"] if words else []
    return sorted({*tokenizer.all_special_ids, *(token for one in found for token in one)})


def load_initial(model: RetrievalModel, folder: Path) -> None:
    """Puts the weights of a trained checkpoint into a model of the same shape.

    Raises:
      ModelError: it is of another architecture, or of another shape.
    """
    found = read_json(folder / "config.json").get("model_type")
    if found != model.config.model_type:
        raise ModelError(f"initial {folder}: expected a model of type {model.config.model_type}, got {found}")
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ModelError(f"initial {folder}: expected a model of the shape of this config; {first}") from error


def pixel_spec(settings: Settings) -> PixelSpec:
    """How a model will want its pictures: as its vision backbone does; squashed to the input otherwise."""
    if settings.vision and Path(settings.vision).is_dir():
        spec = read_spec(Path(settings.vision), family="Siglip")
        return replace(spec, resize="squash", shortest_edge=0) if settings.resize == "squash" else spec
    return PixelSpec(settings.image_size, settings.image_size, "squash", 0, "bilinear", HALF, HALF)


def start_small_text(text: nn.Module, *, std: float) -> None:
    """First weights of a text encoder trained from nothing: words and places on one scale, or places go unseen."""
    for module in text.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def small_text_config(settings: Settings, *, vocabulary: int, pad: int) -> dict[str, object]:
    """Config of the BERT that `small_text` describes."""
    small = settings.small_text
    return {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": small.width,
        "num_hidden_layers": small.layers,
        "num_attention_heads": small.heads,
        "intermediate_size": 4 * small.width,
        "max_position_embeddings": settings.max_words,
        "type_vocab_size": small.segments,
        "pad_token_id": pad,
        "hidden_dropout_prob": small.dropout,
        "attention_probs_dropout_prob": small.dropout,
    }


def word_tokenizer(words: Sequence[str], *, max_words: int) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word, lower case, [CLS] before and [SEP] after the text."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *sorted(set(words) - set(SPECIAL))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        model_max_length=max_words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a pretrained text backbone.

    Raises:
      ModelError: it has none, or one without padding and mask tokens.
    """
    try:
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(path)  # type: ignore[assignment]
    except (OSError, ValueError) as error:
        raise ModelError(f"text backbone {path}: {error}") from error
    if tokenizer.pad_token_id is None or tokenizer.mask_token_id is None:
        raise ModelError(f"text backbone {path}: expected a tokenizer with padding and mask tokens (BERT-like)")
    return tokenizer


def preprocessor_config(spec: PixelSpec) -> dict[str, object]:
    """A preprocessor_config.json that says what a PixelSpec says."""
    resamples = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
    size = {"height": spec.height, "width": spec.width}
    cut = spec.resize == "crop"
    return {
        "do_resize": True,
        "size": {"shortest_edge": spec.shortest_edge} if cut else size,
        "do_center_crop": cut,
        **({"crop_size": size} if cut else {}),
        "resample": resamples[spec.resample],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def token_categories(tokenizer: PreTrainedTokenizerFast, categories: dict[str, Sequence[str]]) -> torch.Tensor | None:
    """Category of each token, int64 (vocabulary,), -1 for none; None where there are no categories."""
    if not categories:
        return None
    table = torch.full((len(tokenizer),), -1, dtype=torch.int64)
    for number, name in enumerate(sorted(categories)):
        for word in categories[name]:
            token = tokenizer.convert_tokens_to_ids(word)
            if token != tokenizer.unk_token_id:
                table[token] = number
    return table


def _feature_shape(vision_config: dict[str, object], spec: PixelSpec, settings: Settings) -> tuple[int, int]:
    """(tokens of a frame, their width) that a vision backbone makes."""
    backbone, pixels = build_backbone(vision_config).train(False), torch.zeros(1, 3, spec.height, spec.width)
    with torch.inference_mode():
        features = averaged(grid_features(backbone, pixels, settings.vision_layers), settings.vision_side)
    return features.shape[1], features.shape[2]
