"""Batches are a function of the step, hold siblings, and never a held-out caption; shards become batches."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.training_job import read_config, run
from pipelines.training_sources import SceneSource, ShardSource, caption_of, demo_captions
from schemas.configs import find, load
from schemas.errors import ConfigError, InputError, ModelError
from schemas.training import TrainConfig


def scenes_config(*settings: str) -> TrainConfig:
    small = [
        "batch_size=16",
        "data.video_share=0.25",
        "data.videos_from_step=1500",
        "data.validation_images=8",
        "data.validation_videos=4",
        "data.holdout_images=40",
    ]
    return load(TrainConfig, find("train", "demo-loopitr"), settings=[*small, "data.holdout_videos=8", *settings])


@pytest.fixture(scope="module")
def source() -> SceneSource:
    config = scenes_config()
    return SceneSource(config, holdout=demo_captions(config.data))


@pytest.mark.parametrize("step", [0, 300, 1600, 9000])
def test_the_same_step_gives_the_same_batch(source, step):
    config = scenes_config()
    one, again = source.batch(step), SceneSource(config, holdout=demo_captions(config.data)).batch(step)
    assert one.captions == again.captions
    assert all(np.array_equal(a, b) for a, b in zip(one.visuals, again.visuals, strict=True))
    assert one.captions != source.batch(step + 1).captions
    assert one.captions != source.batch(step, rank=1).captions
    assert sum(len(group) for group in one.visuals) == len(one.captions) == len(one.item_ids) == 16
    assert [group.shape[1:] for group in one.visuals] == [(1, 64, 64, 3), (4, 64, 64, 3)][: len(one.visuals)]


def test_clips_come_from_their_step_on_and_every_item_has_a_sibling(source):
    assert len(source.batch(0).visuals) == 1
    batch = source.batch(9000)
    assert len(batch.visuals[1]) == 4
    for first, second in zip(batch.captions[::2], batch.captions[1::2], strict=True):
        assert first != second
        assert len(set(first.split()) ^ set(second.split())) <= 4


def test_equal_captions_are_never_negatives_of_each_other(source):
    batch = source.batch(0)  # one thing: few different captions
    assert len(set(batch.captions)) == len(set(batch.item_ids.tolist())) < 16


def test_no_held_out_caption_is_ever_drawn():
    config = scenes_config("data.curriculum=[{from_step: 0, objects: 2}]", "data.video_share=0", "batch_size=64")
    first = SceneSource(config, holdout=frozenset())
    held = frozenset(first.batch(0).captions[:40])
    second = SceneSource(config, holdout=held)
    drawn = {caption for step in range(6) for caption in second.batch(step).captions}
    assert not drawn & held
    assert not drawn & set(second.validation().captions)
    assert drawn & {caption for step in range(6) for caption in first.batch(step).captions}


def test_the_gallery_has_whole_families_and_is_not_the_demo(source):
    gallery = source.validation()
    assert [group.shape[:2] for group in gallery.visuals] == [(8, 1), (4, 4)]
    assert len(set(gallery.captions)) == 12
    assert not set(gallery.captions) & demo_captions(scenes_config().data)
    assert [caption_of(item) for item in source._held_items] == list(gallery.captions)


def test_every_word_and_category_is_known(source):
    words = set(source.words())
    for step in (0, 2000, 9000):
        assert {word for caption in source.batch(step).captions for word in caption.split()} <= words
    assert set(source.categories()) == {"colours", "shapes", "directions"}


def shard(path, count: int) -> str:
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (40, 30), (i * 20, 0, 0)).save(buffer, "PNG")
            texts = json.dumps({"captions": [f"picture number {i}", f"another picture {i}"]}).encode()
            for name, data in ((f"{i:03d}.png", buffer.getvalue()), (f"{i:03d}.json", texts)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("broken.jpg")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"nope"))
    return str(path)


def shards_config(tmp_path, *settings: str) -> TrainConfig:
    train, held = shard(tmp_path / "train.tar", 7), shard(tmp_path / "held.tar", 3)
    small = ["batch_size=3", "model.vision=null", "model.image_size=32", *settings]
    return read_config("flickr8k-loopitr-finetune", shards=[train], validation_shards=[held], settings=small)


def test_shards_become_batches_without_a_picture_twice(tmp_path):
    from encoders.training.build import pixel_spec

    config = shards_config(tmp_path)
    source = ShardSource(config, spec=pixel_spec(config.model))
    assert source.images.shape == (7, 1, 32, 32, 3)
    for step in range(6):
        batch = source.batch(step)
        assert len(set(batch.item_ids.tolist())) == 3
        for picture, caption, item in zip(batch.visuals[0], batch.captions, batch.item_ids, strict=True):
            assert caption in source.captions[item]
            assert abs(int(picture[0, 16, 16, 0]) - item * 20) <= 1
    epoch = [*source.batch(0).item_ids, *source.batch(1).item_ids]
    assert len(set(epoch)) == 6
    gallery = source.validation()
    assert gallery.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.words() == [*map(str, range(7)), "another", "number", "picture"]


def test_no_shards_or_too_few_pictures_is_one_clear_error(tmp_path):
    from encoders.training.build import pixel_spec

    config = shards_config(tmp_path, "batch_size=50")
    with pytest.raises(InputError, match="expected 50 images or more, got 7"):
        ShardSource(config, spec=pixel_spec(config.model))
    with pytest.raises(InputError, match="expected shards to train on"):
        run("flickr8k-loopitr-finetune", out=str(tmp_path / "out"))


@pytest.fixture
def backbone(tmp_path) -> Path:
    """A small ViT as Hugging Face saves it."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path / "backbone"
    size = {"height": 32, "width": 32}
    tower = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(tower).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, "resample": 2}))
    return folder


@pytest.mark.parametrize("name", ["flickr8k-fast-slow", "flickr8k-loopitr-cpu"])
def test_frozen_backbones_of_both_kinds_train_from_what_they_made_once(name, backbone, tiny_model, tmp_path):
    from pipelines.training_job import run

    shards_config(tmp_path)
    small = [f"model.vision={backbone}", f"model.text={tiny_model('bert')}", "model.image_size=32", "steps=2"]
    small += ["batch_size=4", "data.cached_views=2", "model.visual_width=32", "model.visual_heads=2"]
    small += ["validation.every=2", "workers=0", "precision=float32", "model.vision_layers=[0]"]
    small += ["data.feature_folder=null", "model.vision_side=0"]
    small += ["model.text_layers=[0]", "model.head_hidden=16"]
    small += ["stages=[{name: both, from_step: 0}, {name: mutual, from_step: 1}]"] if "fast-slow" in name else []
    small += ["stages=[{name: residual, from_step: 0}]", "losses.negatives=2"] if "loopitr" in name else []
    small += ["model.fusion_heads=4"] if "loopitr" in name else ["model.decoder_width=32"]
    files = [str(tmp_path / "train.tar")], [str(tmp_path / "held.tar")]
    record = run(
        name, out=str(tmp_path / "out"), shards=files[0], validation_shards=files[1], settings=small, device="cpu"
    )
    assert record["steps"] == 2
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_first_layers_of_a_pretrained_text_alone(tiny_model, tmp_path):
    import torch

    from encoders.training.build import build

    folder = tiny_model("bert")
    settings = ["model.vision=null", f"model.text={folder}", "model.visual_heads=4", "model.fusion_heads=4"]
    whole, first = (
        build(shards_config(tmp_path, *settings, f"model.text_depth={depth}"), ["one"]).model for depth in (0, 1)
    )
    assert len(first.text.encoder.layer) == 1 < len(whole.text.encoder.layer)
    ids = torch.tensor([[2, 7, 8, 3]])
    states = [
        one.train(False).text(input_ids=ids, output_hidden_states=True).hidden_states[1] for one in (whole, first)
    ]
    torch.testing.assert_close(*states)
    with pytest.raises(ModelError, match="expected 9 layers or more, got 2"):
        build(shards_config(tmp_path, *settings, "model.text_depth=9"), ["one"])


def test_cached_features_train_like_the_frozen_backbone_they_came_from(backbone, tmp_path):
    import torch

    from encoders.training.build import build
    from encoders.training.features import cached_features
    from pipelines.training_job import open_source, run

    settings = [f"model.vision={backbone}", "model.text=null", "optimizer.vision_lr_factor=0", "steps=2", "workers=0"]
    settings += [
        "model.visual_width=32",
        "model.visual_heads=2",
        "model.fusion_heads=4",
        "data.cached_views=3",
        "batch_size=4",
    ]
    config = shards_config(tmp_path, *settings)
    source = open_source(config)
    built = build(config, source.words())
    pictures = source.images
    source.use_features(
        lambda images, name: cached_features(
            built.model, images, tmp_path / f"{name}.npy", spec=built.spec, data=config.data, views=3
        )
    )
    assert source.images.shape[:2] == (7, 3)
    assert source.validation().visuals[0].shape[1] == 1
    assert not np.allclose(source.images[:, 1], source.images[:, 0], atol=1e-2)  # another crop
    assert not np.allclose(source.images[:, 2], source.images[:, 1], atol=1e-2)
    assert source.batch(0).visuals[0].shape == (4, 1, *source.images.shape[2:])
    from encoders.training.batches import to_visual

    built.model.train(False)
    with torch.inference_mode():
        direct = built.model.backbone_features(
            to_visual(torch.from_numpy(pictures[3:4]), built.spec, torch.device("cpu"))[:, 0]
        )
    np.testing.assert_allclose(source.images[3, 0], direct[0].half().numpy(), atol=2e-2, rtol=2e-2)

    out = tmp_path / "out"
    shards = [str(tmp_path / "train.tar")], [str(tmp_path / "held.tar")]
    small = ["model.image_size=32", "validation.every=2", *settings]
    record = run(
        "flickr8k-loopitr-finetune",
        out=str(out),
        shards=shards[0],
        validation_shards=shards[1],
        settings=small,
        device="cpu",
    )
    assert record["steps"] == 2
    assert (out / "model.safetensors").is_file()


def test_two_runs_share_features_of_one_folder_and_the_second_may_average_their_grid(maps, tiny_model, tmp_path):
    from pipelines.training_job import run

    shards_config(tmp_path)
    folder = tmp_path / "features"
    shared = [f"model.vision={maps}", f"model.text={tiny_model('bert')}", "model.image_size=64", "steps=2"]
    shared += ["batch_size=4", "data.cached_views=2", f"data.feature_folder={folder}", "model.vision_layers=[6]"]
    shared += ["model.visual_width=32", "model.visual_heads=2", "validation.every=2", "workers=0", "precision=float32"]
    files = {"shards": [str(tmp_path / "train.tar")], "validation_shards": [str(tmp_path / "held.tar")]}
    slow = "stages=[{name: slow, from_step: 0}]"
    small = {"flickr8k-fast-slow": ["model.decoder_width=32", slow], "flickr8k-loopitr-cpu": ["model.fusion_heads=4"]}
    shared += ["model.head_hidden=16", "model.text_layers=[0]"]
    kept = {}
    for name, settings in small.items():
        record = run(name, out=str(tmp_path / name), settings=[*shared, *settings], device="cpu", **files)
        assert record["steps"] == 2
        assert not (tmp_path / name / "checkpoints").exists()
        pictures = [*folder.glob("train-*.npy"), *folder.glob("validation-*.npy")]
        kept[name] = {path.name: path.stat().st_mtime_ns for path in pictures}
        assert len(list(folder.glob("texts-*.npy"))) == (name != "flickr8k-fast-slow")  # whose stage reads no vectors
    assert len(kept["flickr8k-fast-slow"]) == 2
    assert kept["flickr8k-loopitr-cpu"] == kept["flickr8k-fast-slow"]  # read, not made again
    tokens = {np.load(folder / name).shape[2] for name in kept["flickr8k-fast-slow"]}
    assert tokens == {4}


@pytest.fixture
def maps(tmp_path) -> Path:
    """A small MobileNetV2 as Hugging Face saves it."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    folder = tmp_path / "maps"
    MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.25)).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, "resample": 2}))
    return folder


def test_caching_what_is_not_frozen_is_refused():
    with pytest.raises(ConfigError, match="vision_lr_factor 0"):
        read_config("flickr8k-loopitr-finetune", shards=[], validation_shards=[], settings=["data.cached_views=1"])


def test_the_last_layers_of_a_backbone_learn_on_what_the_first_ones_made_once(maps, tiny_model, tmp_path):
    import torch
    from safetensors.torch import load_file
    from transformers import MobileNetV2Model

    from encoders.architectures.encoder import TrainedEncoder
    from encoders.folding import fold_batch_norms
    from encoders.training.build import build
    from pipelines.claims.targets import first_backbone
    from pipelines.training_job import run

    shards_config(tmp_path)
    small = [f"model.vision={maps}", f"model.text={tiny_model('bert')}", "model.image_size=64", "batch_size=4"]
    small += ["model.vision_layers=[6, 14]", "model.visual_width=32", "model.visual_heads=2", "model.fusion_heads=4"]
    small += ["model.head_hidden=16", "model.text_layers=[0]", "data.cached_views=2", "data.feature_folder=null"]
    small += ["steps=2", "validation.every=2", "workers=0", "precision=float32"]
    files = {"shards": [str(tmp_path / "train.tar")], "validation_shards": [str(tmp_path / "held.tar")]}
    frozen, tuned = tmp_path / "frozen", tmp_path / "tuned"
    run("flickr8k-loopitr-cpu", out=str(frozen), settings=small, device="cpu", **files)
    more = ["model.vision_top=2", "optimizer.vision_lr_factor=0.5", f"initial={frozen}"]
    run("flickr8k-loopitr-cpu", out=str(tuned), settings=[*small, *more], device="cpu", **files)
    before, after = (load_file(folder / "model.safetensors") for folder in (frozen, tuned))
    moved = {name for name in before if name.startswith("vision.backbone.") and (before[name] != after[name]).any()}
    assert moved
    assert all(name.split(".")[2:4] in (["layer", "14"], ["layer", "15"]) or "conv_1x1" in name for name in moved)
    pixels, sides = torch.randint(0, 256, (2, 1, 64, 64, 3), dtype=torch.uint8), []
    for dtype in (torch.float32, torch.bfloat16):  # standardised channels and averaged maps, in both
        encoder = TrainedEncoder(tuned, dtype=dtype, device=torch.device("cpu"), fingerprint="")
        sides.append((encoder.encode_visual(pixels)["embedding"], encoder.encode_text(["a dog"] * 2)["embedding"]))
        assert np.isfinite(encoder.score(["a dog"] * 2, encoder.visual_cache(pixels))).all()
    for exact, near in zip(*sides, strict=True):
        assert (exact * near).sum(1).min() > 0.95
    before_any = MobileNetV2Model.from_pretrained(maps).eval()
    fold_batch_norms(before_any)
    kept = first_backbone(str(tuned)).state_dict()  # the floor of claims stands on what has not learnt
    assert kept.keys() == before_any.state_dict().keys()
    assert all((kept[name] == weight).all() for name, weight in before_any.state_dict().items())
    own_words = ["model.text=null", "model.fusion_heads=4"]
    built = build(shards_config(tmp_path, f"model.vision={tuned}", *own_words), ["one"]).model
    assert all((built.state_dict()[name] == after[name]).all() for name in moved)
    with pytest.raises(ModelError, match="a grid of its own"):
        build(shards_config(tmp_path, f"model.vision={tiny_model('loopitr')}", *own_words), ["one"])
    with pytest.raises(ConfigError, match="frozen\\) or model.vision_top"):
        run("flickr8k-loopitr-cpu", out=str(tuned), settings=[*small, "optimizer.vision_lr_factor=0.5"], **files)
