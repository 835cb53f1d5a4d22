"""The whole of the claims on photos, with tiny models on generated shards; and that test captions teach nothing."""

import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.base import PixelSpec
from pipelines.claims import findings, job, kept, on_photos, photos, records, targets
from pipelines.claims.bench import Bench, Size
from pipelines.claims.contests import CONTESTS
from pipelines.claims.gallery import Gallery
from pipelines.claims.papers import CLAIMS, SYSTEMS
from pipelines.claims.scores import Scores, open_checkpoint, score_all
from pipelines.claims.seen import Seen
from pipelines.claims.trained import Trained
from schemas.errors import ConfigError, InputError, SampleError

SPEC = PixelSpec(32, 32, "squash", 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COUNTS = {"train": 8, "dev": 4, "test": 12}
SOME = {
    "flickr8k-fast-slow": (
        "model.decoder_width=32",
        "model.decoder_heads=2",
        "model.embedding_dim=16",
        "model.head_hidden=16",
        "model.text_layers=[0]",
    ),
    "flickr8k-vldeformer": ("model.tag_words=2", "model.vision_side=1"),
    "flickr8k-cooperative": ("model.vision_side=1",),
    "flickr8k-hivlp": ("model.fusion_heads=4", "model.head_hidden=16", "model.text_layers=[0]"),
    "flickr8k-loopitr-cpu": ("model.fusion_heads=4", "model.head_hidden=16", "model.text_layers=[0]"),
}
"""What makes the models of a config small, beside what all have."""

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
THINGS = ("dog", "cat", "man", "woman", "child", "horse", "car", "boat")


def texts_of(split: str, number: int) -> list[str]:
    first = f"a {COLOURS[number % 6]} {THINGS[number % 8]} on the {('snow', 'grass', 'beach')[number % 3]}"
    return [first, f"the {THINGS[number % 8]} runs left of two {THINGS[(number + len(split)) % 8]}"]


def write_shard(path: Path, split: str, captions: list[list[str]]) -> None:
    rng = np.random.default_rng(len(split))
    with tarfile.open(path, "w") as tar:
        for number, texts in enumerate(captions):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((70, 60)).save(buffer, "JPEG")
            meta = json.dumps({"captions": texts, "split": split}).encode()
            for name, data in ((f"{split}{number:03d}.jpg", buffer.getvalue()), (f"{split}{number:03d}.json", meta)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_folder(folder: Path, *, shuffled: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        captions = [texts_of(split, number) for number in range(count)]
        if shuffled and split == "test":
            random.Random(0).shuffle(captions)
        write_shard(folder / f"flickr8k-{split}-00000.tar", split, captions)
    grades = [f"test{i:03d}.jpg\ttest{j:03d}.jpg#1\t{1 + (i == j)}\t1\t{1 + j % 4}" for i in range(6) for j in range(6)]
    (folder / "ExpertAnnotations.txt").write_text("\n".join([*grades, "test000.jpg\tgone.jpg#2\t1\t1\t1"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def vision(tmp_path_factory) -> Path:
    """A small MobileNetV2 as Hugging Face saves it: 2 x 2 cells of pictures of 64 pixels."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("vision")
    model = MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.1))
    model.half().float().save_pretrained(out)  # checkpoints are float16, and are to hold the same backbone
    size = {"height": 64, "width": 64}
    (out / "preprocessor_config.json").write_text(json.dumps({"size": size, "resample": 2}))
    return out


def small_bench(folder: Path, work: Path, backbones: tuple[Path, Path]) -> Bench:
    small = [f"model.vision={backbones[0]}", f"model.text={backbones[1]}", "model.image_size=64", "batch_size=6"]
    small += ["model.max_words=16"]
    small += ["data.cached_views=2", "model.visual_width=32", "model.visual_heads=2", "precision=float32", "workers=0"]
    bench = on_photos.photo_bench(folder, features=work / "features", settings=small)
    short = {
        name: replace(one, steps=2, settings=(*one.settings, *SOME.get(one.config, ())))
        for name, one in bench.trainings.items()
    }
    return replace(
        bench,
        trainings=short,
        measured=Size(12, 6),
        trained=Size(12, 6),
        squares=Size(6, 6),
        large=16,
        queries=4,
        validations=2,
    )


@pytest.fixture(scope="module")
def backbones(vision, tiny_model) -> tuple[Path, Path]:
    return vision, tiny_model("bert")


FEW = ("FS1", "HV3", "LP1", "LP6")
"""Claims that six trainings decide, in each way there is; the others are tried where there is time."""


@pytest.fixture(scope="module")
def ran(folder, backbones, tmp_path_factory) -> tuple[Path, Path, dict[str, job.Outcome]]:
    """Output, folder of models, and what a few claims gave at one seed."""
    out, work = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("work")
    found = job.run(out, folder=work, quick=False, seeds=(1,), bench=small_bench(folder, work, backbones), only=FEW)
    return out, work, found


@pytest.mark.slow
def test_every_claim_is_decided_on_photos(ran, folder, backbones, monkeypatch):
    monkeypatch.setattr(job, "SIZES", (200, 400))
    monkeypatch.setattr(job, "WIDTHS", (4, 8))
    bench, others = small_bench(folder, ran[1], backbones), [name for name in CLAIMS if name not in FEW]
    found = job.run(ran[0], folder=ran[1], quick=False, seeds=(1,), bench=bench, only=others)
    decided = {name for name, one in found.items() if one.finding.verdict != "not tested"}
    assert decided >= set(found) - {"FS3"}  # which needs a slow side that is better
    recorded = findings.read(ran[0] / "claims.json")["flickr8k"].findings
    assert set(recorded) == set(CLAIMS)
    assert recorded["HV1"].facts["items"] == 16


def test_claims_are_decided_on_photos(ran):
    out, _, found = ran
    assert {one.finding.verdict for one in found.values()} <= {"holds", "does not hold"}
    recorded = findings.read(out / "claims.json")["flickr8k"].findings
    assert recorded["LP6"].command == "fastslow claims --on flickr8k --shards FOLDER --only LP6 --seeds 1"
    assert recorded["LP6"].facts["queries"] == 6
    assert recorded["HV3"].facts["queries"] == recorded["LP1"].facts["queries"] == 24  # all captions
    page = (out / "claims.md").read_text()
    assert "## Trainings on photos" in page
    assert "| lp-base-1 | `flickr8k-loopitr-cpu` |" in page


def test_the_features_of_the_photos_are_computed_once_for_all_trainings(ran):
    names = sorted(path.name.split("-")[0] for path in (ran[1] / "features").glob("*.npy"))
    assert names == ["texts", "texts", "train", "validation"]  # captions as their last layer, and as two


def test_records_name_no_folder_of_this_machine(ran, folder, backbones):
    out, work, _ = ran
    all_kept = records.read_all(out / "claims" / "flickr8k")
    assert set(all_kept) >= {f"{name}-1" for name in ("fs-distilled", "hv-joint", "lp-distilled", "lp-base")}
    for record in all_kept.values():
        text = json.dumps(record)
        assert not [str(one) for one in (folder, work, *backbones) if str(one) in text]
        assert record["config"]["data"]["train"] == ["flickr8k-train-*.tar"]
        assert {"seed", "steps", "seconds", "device", "versions", "metrics", "test"} <= set(record)


@pytest.mark.parametrize("name", on_photos.TRAININGS)
def test_every_training_is_a_config_that_can_be_read(name, folder, tmp_path):
    from pipelines.training_job import read_config

    bench = on_photos.photo_bench(folder, features=tmp_path)
    settings = Trained(bench, tmp_path, (1,)).settings(name, 1, "null")
    config = read_config(
        bench.trainings[name].config, shards=bench.shards[0], validation_shards=bench.shards[1], settings=settings
    )
    assert config.steps == bench.trainings[name].steps
    assert config.data.feature_folder == str(tmp_path)
    assert [Path(one).name for one in (*config.data.train, *config.data.validation)] == [
        "flickr8k-train-*.tar",
        "flickr8k-dev-*.tar",
    ]
    assert bench.trainings[name].initial in {None, *bench.trainings}


def test_what_claims_name_is_trained():
    compared = [on_photos.SIDES.get(name, one) for name, one in CONTESTS.items()]
    assert {side[0] for one in compared for side in (one.ours, one.theirs)} <= set(on_photos.TRAININGS)
    assert set(on_photos.MAINS) == set(SYSTEMS)
    assert set(on_photos.MAINS.values()) <= set(on_photos.TRAININGS)


@pytest.mark.parametrize("name", ["fs-distilled", "lp-distilled"])
def test_shuffled_test_captions_change_nothing_that_is_trained_or_chosen(name, folder, backbones, ran, tmp_path):
    shuffled = write_folder(folder.parent / "shuffled" / "shards", shuffled=True)
    one, other = (photos.read_split(some, "test", SPEC) for some in (folder, shuffled))
    assert one.captions != other.captions
    assert sorted(one.captions) == sorted(other.captions)
    there = Trained(small_bench(shuffled, tmp_path, backbones), tmp_path, (1,)).train(name, 1)
    here = ran[1] / f"{name}-1"
    assert (there / "model.safetensors").read_bytes() == (here / "model.safetensors").read_bytes()
    first, second = (json.loads((some / "training.json").read_text()) for some in (here, there))
    assert [first[key] for key in ("best_step", "fusion_beta", "metrics")] == [
        second[key] for key in ("best_step", "fusion_beta", "metrics")
    ]


def test_training_opens_no_test_shard(backbones, tmp_path):
    shards = write_folder(tmp_path / "shards")
    (shards / "flickr8k-test-00000.tar").write_bytes(b"whoever opens this fails")
    with pytest.raises((InputError, SampleError, OSError, tarfile.TarError)):
        photos.read_split(shards, "test", SPEC)
    on = Trained(small_bench(shards, tmp_path, backbones), tmp_path, (1,))
    assert (on.train("rr-join", 1) / "training.json").is_file()


def test_all_pairs_of_a_frozen_slow_side_are_scored_once(ran, folder, backbones):
    told: list[str] = []
    bench = replace(small_bench(folder, ran[1], backbones), trained=Size(8, 6))
    on = Trained(bench, ran[1], (1,), tell=told.append)
    whole = on.scores("fs-distilled", 1, slow=True, size=bench.measured)
    assert not [line for line in told if "all pairs" in line]  # they were kept by the run that decided FS1
    of_teacher = score_all(
        on.checkpoint("fs-distilled", 1), bench.draw(1, bench.measured, on.checkpoint("fs-slow", 1).pixels)
    )
    np.testing.assert_allclose(whole.slow, of_teacher.slow, atol=1e-3)
    np.testing.assert_allclose(whole.fast, of_teacher.fast, atol=1e-4)
    part = on.scores("fs-distilled", 1, slow=True)
    assert (part.slow == whole.slow[:, :8]).all()
    assert (part.targets == whole.targets).all()
    assert not [line for line in told if "all pairs" in line]


def test_models_of_one_backbone_look_at_a_photo_once(ran, folder, backbones):
    bench, looked, seen = small_bench(folder, ran[1], backbones), [], Seen()
    for name in ("lp-distilled", "fs-distilled"):  # one tower, and two
        path = str(ran[1] / f"{name}-1")
        model = open_checkpoint(path, Seen())
        shown = bench.draw(1, bench.measured, model.pixels)
        alone = score_all(model, shown)
        model = open_checkpoint(path, seen)
        for backbone in model.encoder.model.BACKBONES["vision"]:
            model.encoder.model.get_submodule(backbone).register_forward_pre_hook(
                lambda _module, _args, given: looked.append(len(given["pixel_values"])), with_kwargs=True
            )
        shared = score_all(model, shown)
        for column in alone.items:
            np.testing.assert_allclose(shared.by(column), alone.by(column), atol=1e-5)
        np.testing.assert_allclose(shared.slow, alone.slow, atol=1e-4, rtol=1e-5)
        assert sum(looked) == len(shown.pixels)
    assert shared.seconds["items"] > 0
    assert seen.credit > shared.seconds["items"] / 2  # three times found, by vectors and caches


def test_kept_pairs_of_other_weights_or_pictures_are_not_taken(tmp_path):
    pictures = torch.zeros(3, 1, 2, 2, 3, dtype=torch.uint8)
    shown = Gallery(pictures, ("a dog", "a cat"), np.array([0, 2]), np.array([5, 7]))
    vectors = np.eye(3, dtype=np.float32)
    found = Scores(
        {"embedding": vectors[:2]}, {"embedding": vectors}, shown.targets, vectors[:2], {"pairs": 1.5}, shown.subjects
    )
    path, of = tmp_path / "pairs.npz", kept.mark("weights", shown)
    assert kept.read(path, of, shown) is None
    kept.write(path, of, found)
    again = kept.read(path, of, shown)
    assert again.seconds == found.seconds
    assert (again.slow == found.slow).all()
    assert (again.fast == found.fast).all()
    assert again.subjects is shown.subjects
    others = (replace(shown, pixels=pictures + 1), replace(shown, captions=("a dog", "a car")))
    for mark in (kept.mark("other weights", shown), *(kept.mark("weights", one) for one in others)):
        assert kept.read(path, mark, shown) is None


def test_a_gallery_is_all_photos_and_one_caption_each_of_some(folder):
    shown = photos.read_split(folder, "test", SPEC)
    one, again, other = (photos.draw(shown, seed, Size(12, 5)) for seed in (1, 1, 2))
    assert one.captions == again.captions != other.captions
    assert one.pixels.shape == (12, 1, 32, 32, 3)
    for text, target, subject in zip(one.captions, one.targets, one.subjects, strict=True):
        assert text in shown.captions[subject]
        assert (one.pixels[target] == shown.pixels[subject]).all()
    fewer = photos.draw(shown, 1, Size(7, 5))  # the beginning of it: `Bench.nested`
    assert (fewer.captions, fewer.targets.tolist()) == (one.captions, one.targets.tolist())
    assert (fewer.pixels == one.pixels[:7]).all()
    whole = shown.all_texts()
    assert len(whole.captions) == 24
    assert all(text in shown.captions[target] for text, target in zip(whole.captions, whole.targets, strict=True))
    with pytest.raises(InputError, match="a photo for each of 13 texts, got 12"):
        photos.draw(shown, 1, Size(1000, 13))


def test_of_photos_with_the_same_caption_any_is_right():
    rank = targets.of_distinct(("a dog", "a cat", "A  dog", "a bird"), np.array([7, 2, 3, 1]))
    assert rank.tolist() == [1, 2, 3]  # of "a bird", "a cat" and "a dog"


def test_a_split_that_is_missing_is_named(folder, tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"flickr8k-{split}-00000.tar").touch()
    with pytest.raises(InputError, match=r"expected shards named flickr8k-test-\*\.tar, found none"):
        job.bench_of("flickr8k", folder=tmp_path, work=tmp_path, settings=())
    assert job.bench_of("flickr8k", folder=folder, work=tmp_path, settings=()).name == "flickr8k"
    with pytest.raises(ConfigError, match="give --shards"):
        job.bench_of("flickr8k", folder=None, work=tmp_path, settings=())


def test_targets_are_measured_kept_and_shown(ran, folder, tmp_path_factory):
    out, work, _ = ran
    found = job.reach(
        out,
        encoder=str(work / "lp-distilled-1"),
        scorer=str(work / "fs-slow-1"),
        folder=folder,
        texts=5,
        others=[f"train again={folder}/flickr8k-train-*.tar"],
    )
    assert found["fast"]["texts"] == 20  # distinct ones of 24
    assert found["exhaustive"]["texts"] == 5
    assert found["exhaustive"]["pairs"] == 5 * 12
    assert found["spearman"]["pairs"] == 36
    assert found["spearman"]["left_out"] == 1
    assert found["others"]["train again"]["items"] == 8
    assert found["reranked"]["r1"] <= 100
    written = (out / "claims" / "flickr8k" / "targets.json").read_text()
    assert str(work) not in written
    page = (out / "claims.md").read_text()
    assert "## Targets on Flickr8k" in page
    assert "| train again | 8 | 16 |" in page
    assert json.loads(written)["fast"]["r1"] == pytest.approx(found["fast"]["r1"], abs=1e-4)
