"""Tiny random models with real tokenizers, saved as Hugging Face would; the same bytes on each call.

A few ten thousand parameters, 32 x 32 pixels: the real classes, code paths and file formats, in milliseconds.
Use through the session fixtures of tests/conftest.py (`tiny_clip`, `tiny_blip`, ...) or call with an empty folder.
"""

import json
from pathlib import Path
from typing import Any

EDGE = 32  # pixels of a model's input
FRAMES = 4  # of the video model

WORDS = [
    "a",
    "an",
    "the",
    "red",
    "green",
    "blue",
    "yellow",
    "black",
    "white",
    "circle",
    "square",
    "triangle",
    "star",
    "dog",
    "cat",
    "man",
    "woman",
    "child",
    "horse",
    "car",
    "boat",
    "left",
    "right",
    "above",
    "below",
    "of",
    "on",
    "in",
    "under",
    "beside",
    "with",
    "and",
    "two",
    "three",
    "plays",
    "runs",
    "moves",
    "sits",
    "stands",
    "snow",
    "grass",
    "beach",
    "small",
    "large",
    "slow",
    "fast",
    "is",
    "to",
    "from",
    "up",
    "down",
]

CAPTIONS = [
    f"{a} {b} {c}"
    for a in ("a red", "the blue", "a small")
    for b in ("circle", "dog", "car")
    for c in ("left of", "on")
]


def make_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIPModel: D = 24, 64 x 64 resized to 40 and cropped to 32, at most 20 tokens."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer()
    config = CLIPConfig(
        text_config=_text(tokenizer) | {"projection_dim": 24},
        vision_config=_vision() | {"projection_dim": 24},
        projection_dim=24,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": EDGE, "width": EDGE})
    _seeded(CLIPModel, config, seed).save_pretrained(folder)
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    _as_on_the_hub(folder, pictures)
    return folder


def make_siglip(folder: Path, *, seed: int = 0) -> Path:
    """A SiglipModel as fixed-resolution SigLIP 2 checkpoints are saved: D = 32, squashed to 32 x 32, 20 tokens."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = gemma_tokenizer()
    config = SiglipConfig(text_config=_text(tokenizer) | {"projection_size": 32}, vision_config=_vision())
    pictures = SiglipImageProcessorPil(size={"height": EDGE, "width": EDGE})
    _seeded(SiglipModel, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _as_on_the_hub(folder, pictures)
    return folder


def make_siglip2(folder: Path, *, seed: int = 0) -> Path:
    """A Siglip2Model (NaFlex): D = 32, at most 18 patches of 8 x 8, so a square of 4 x 4 patches."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    tokenizer = gemma_tokenizer()
    vision = {key: value for key, value in _vision().items() if key != "image_size"} | {"num_patches": 16}
    config = Siglip2Config(text_config=_text(tokenizer) | {"projection_size": 32}, vision_config=vision)
    _seeded(Siglip2Model, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _as_on_the_hub(folder, Siglip2ImageProcessorPil(patch_size=8, max_num_patches=18))
    return folder


def make_xclip(folder: Path, *, seed: int = 0) -> Path:
    """An XCLIPModel: D = 24, clips of 4 frames."""
    from transformers import VideoMAEImageProcessorPil, XCLIPConfig, XCLIPModel

    tokenizer = clip_tokenizer()
    config = XCLIPConfig(
        text_config=_text(tokenizer),
        vision_config=_vision()
        | {
            "num_frames": FRAMES,
            "mit_hidden_size": 24,
            "mit_intermediate_size": 48,
            "mit_num_hidden_layers": 1,
            "mit_num_attention_heads": 2,
        },
        projection_dim=24,
        prompt_layers=1,
        prompt_num_attention_heads=2,
    )
    _seeded(XCLIPModel, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures = VideoMAEImageProcessorPil(size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE})
    _as_on_the_hub(folder, pictures)
    return folder


def make_blip(folder: Path, *, seed: int = 0) -> Path:
    """A BlipForImageTextRetrieval: 17 vision tokens of 32 channels."""
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessorPil, BlipProcessor

    tokenizer = bert_tokenizer()
    text = _text(tokenizer) | {"encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(text_config=text, vision_config=_vision(), projection_dim=24, image_text_hidden_size=24)
    _seeded(BlipForImageTextRetrieval, config, seed).save_pretrained(folder)
    pictures = BlipImageProcessorPil(size={"height": EDGE, "width": EDGE})
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    _as_on_the_hub(folder, pictures)
    return folder


def make_bert(folder: Path, *, seed: int = 0) -> Path:
    """A BertModel of width 32: a text backbone to begin from."""
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    _seeded(BertModel, BertConfig(**_text(tokenizer)), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_loopitr(folder: Path, *, seed: int = 0) -> Path:
    """A LoopITRModel: D = 16."""
    return _make_trained(folder, "loopitr", seed, **_TOWER, fusion_layers=1, embedding_dim=16)


def make_fast_slow(folder: Path, *, seed: int = 0) -> Path:
    """A FastSlowModel: maps of 4 x 4 and 8 x 8 cells a frame, D = 16."""
    return _make_trained(folder, "fast_slow", seed, **_TOWER, slow_visual_layers=1, decoder_width=32, embedding_dim=16)


def make_vldeformer(folder: Path, *, seed: int = 0) -> Path:
    """A VLDeformerModel with tags: 4 tags and 4 x 4 regions a frame, D = 32."""
    ids = {name: getattr(bert_tokenizer(), name) for name in ("cls_token_id", "sep_token_id")}
    return _make_trained(folder, "vldeformer", seed, tag_words=4, **ids)


def make_hivlp(folder: Path, *, seed: int = 0) -> Path:
    """A HiVLPModel: vectors of 4, 8 and 16 numbers."""
    return _make_trained(folder, "hivlp", seed, **_TOWER, fusion_layers=1, dims=(4, 8, 16), embedding_dim=16)


def make_cooperative(folder: Path, *, seed: int = 0) -> Path:
    """A CooperativeModel, one stream for both sides (JOIN): D = 32."""
    return _make_trained(folder, "cooperative", seed, cls_token_id=bert_tokenizer().cls_token_id)


_TOWER = {"visual_width": 32, "visual_layers": 1}


def _make_trained(folder: Path, architecture: str, seed: int, **shape: Any) -> Path:
    """A model of `encoders.architectures` on its convolutional grid: 4 x 4 tokens a frame, 20 words."""
    from transformers import BertConfig, BlipImageProcessorPil

    from encoders.architectures import classes

    model, _ = classes(architecture)
    tokenizer = bert_tokenizer()
    config = model.config_class(
        text_config=BertConfig(**_text(tokenizer)).to_dict(),
        image_size=EDGE,
        grid=4,
        frame_tokens=16,
        backbone_width=32,
        max_words=20,
        **shape,
    )
    _seeded(model, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _as_on_the_hub(folder, BlipImageProcessorPil(size={"height": EDGE, "width": EDGE}))
    return folder


def clip_tokenizer():
    """Byte-level BPE as CLIP's: start and end token highest, padding with the end token, 20 tokens at most."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    vocab = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for word in WORDS:  # each word from its first letters on: "d o", "do g</w>"
        pieces = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(pieces)):
            pair = ("".join(pieces[:end]), pieces[end])
            if pair not in merges:
                merges.append(pair)
    vocab = list(dict.fromkeys(vocab + ["".join(pair) for pair in merges])) + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=20)


def bert_tokenizer():
    """WordPiece as BERT's, lower case."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(33, 127)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    return BertTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(vocab))}, model_max_length=20)


def gemma_tokenizer():
    """BPE with byte fallback as SigLIP 2's: lower case, end token added, no attention mask."""
    from tokenizers import processors
    from transformers import Siglip2Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word, "▁"]  # a word's space ends up behind it: "merged with previous"
        for end in range(1, len(pieces)):
            pair = ("".join(pieces[:end]), pieces[end])
            if pair not in merges:
                merges.append(pair)
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = dict.fromkeys([*special, *bytes_, "▁", *letters, *("".join(pair) for pair in merges)])
    tokenizer = Siglip2Tokenizer(
        vocab={token: i for i, token in enumerate(vocab)},
        merges=merges,
        padding_side="right",
        model_input_names=["input_ids"],
        model_max_length=20,
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def _text(tokenizer) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 20,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision() -> dict:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": EDGE,
        "patch_size": 8,
    }


def _seeded(kind, config, seed: int):
    """A model whose weights depend on the seed only, larger than transformers' start so that outputs vary."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def _as_on_the_hub(folder: Path, pictures) -> None:
    """preprocessor_config.json under the class name published checkpoints state (not the `...Pil` one)."""
    pictures.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    value = json.loads(path.read_text())
    value["image_processor_type"] = value["image_processor_type"].removesuffix("Pil")
    path.write_text(json.dumps(value))
