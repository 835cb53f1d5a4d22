"""A run cut anywhere and resumed ends with the same weights; what it exports loads and says how it came to be."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoders.architectures.base import Stage
from encoders.architectures.encoder import TrainedEncoder
from encoders.training import loop
from encoders.training.augment import augment
from encoders.training.batches import Batch, Gallery
from encoders.training.build import build, token_categories, word_tokenizer
from encoders.training.loop import Listener, accelerator_of, fit
from encoders.training.schedule import lr_factor, parameter_groups
from encoders.training.stages import let_learn, phases
from encoders.training.train import finished, run_digest, train
from encoders.training.validate import recall
from schemas.configs import parse
from schemas.errors import ConfigError, ModelError
from schemas.training import TrainConfig


def config_of(**changes) -> TrainConfig:
    value = {
        "name": "tiny",
        "steps": 6,
        "batch_size": 4,
        "model": {
            "architecture": "loopitr",
            "image_size": 16,
            "grid": 2,
            "visual_width": 16,
            "visual_layers": 1,
            "visual_heads": 2,
            "small_text": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.1},
            "fusion_layers": 1,
            "fusion_heads": 2,
            "embedding_dim": 8,
            "max_words": 8,
        },
        "losses": {"distillation_start": 0.5, "masking": "categories"},
        "data": {"kind": "scenes"},
        "optimizer": {"warmup_steps": 2},
        "validation": {"every": 2, "depth": 3},
        "checkpoint_every": 2,
        "log_every": 2,
        "workers": 0,
        **changes,
    }
    return parse(TrainConfig, value, source="test")


class Colours:
    """Plain pictures of one colour, and the word for it."""

    augment = False
    digest = "d"
    names = ("red", "green", "blue", "black")
    values = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0))

    def batch(self, step: int, rank: int = 0) -> Batch:
        order = np.random.default_rng([step, rank]).permutation(4)
        pixels = np.stack([np.full((1, 16, 16, 3), self.values[i], np.uint8) for i in order])
        return Batch((pixels,), tuple(f"a {self.names[i]} thing" for i in order), order.astype(np.int64))

    def words(self) -> list[str]:
        return ["a", "thing", *self.names]

    def categories(self) -> dict:
        return {"colours": list(self.names)}

    def validation(self) -> Gallery:
        batch = self.batch(0)
        return Gallery(batch.visuals, batch.captions, np.arange(4))


def weights_after(tmp_path, config, *, cuts=()):
    for cut in (*cuts, None):
        built = build(config, Colours().words())
        fit(built, config, Colours(), folder=tmp_path, accelerator=accelerator_of(config, "cpu"), stop_after=cut)
    return built.model.state_dict()


def test_a_run_cut_twice_ends_with_the_same_weights(tmp_path):
    config = config_of()
    whole = weights_after(tmp_path / "whole", config)
    cut = weights_after(tmp_path / "cut", config, cuts=(1, 4))
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name
    best = [load_file(tmp_path / which / "best.safetensors") for which in ("whole", "cut")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


STAGES = [{"name": "contrast", "from_step": 0}, {"name": "joint", "from_step": 3, "lr_factor": 0.5}]


def test_a_run_of_two_stages_cut_at_their_border_ends_with_the_same_weights(tmp_path):
    config = config_of(stages=STAGES)
    whole = weights_after(tmp_path / "whole", config)
    cut = weights_after(tmp_path / "cut", config, cuts=(3, 4))
    assert all(torch.equal(weight, cut[name]) for name, weight in whole.items())


def test_a_stage_trains_what_it_says_and_nothing_else(tmp_path):
    config = config_of(stages=STAGES)
    built = build(config, Colours().words())
    before = {name: weight.clone() for name, weight in built.model.state_dict().items()}
    seen = []
    listener = Listener(logged=lambda step, losses: seen.append(sorted(losses)))
    run = {"folder": tmp_path, "accelerator": accelerator_of(config, "cpu"), "listener": listener}
    fit(built, config, Colours(), stop_after=3, **run)
    changed = {name for name, weight in built.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "text_head.weight" in changed
    assert not any(name.startswith(("fusion_blocks", "match_head", "word_head")) for name in changed)
    assert set(seen[-1]) == {"contrast", "total"}
    fit(built, config, Colours(), **run)
    assert set(seen[-1]) == {"contrast", "distillation", "masked_words", "matching", "total"}


def test_phases_cover_the_steps_take_tasks_in_turn_and_refuse_strangers():
    stages = {"a": Stage(("x", "y")), "b": Stage(("z",), frozen=("t",))}
    (only,) = phases(config_of(steps=6), stages)
    assert (only.name, only.first, only.last) == ("a", 0, 6)
    assert [only.task(step) for step in range(4)] == ["x", "y", "x", "y"]
    config = config_of(steps=6, stages=[{"name": "b", "from_step": 0}, {"name": "a", "from_step": 3}])
    first, second = phases(config, stages)
    assert (first.last, second.first, second.last) == (3, 3, 6)
    assert [second.task(step) for step in (3, 4)] == ["x", "y"]
    assert [second.progress(step) for step in (3, 6)] == [0.0, 1.0]
    with pytest.raises(ConfigError, match="loopitr has no stage 'b'; known: a"):
        phases(config, {"a": stages["a"]})
    with pytest.raises(ConfigError, match="expected from_step to rise from 0"):
        config_of(stages=[{"name": "joint", "from_step": 1}])


def test_frozen_parts_get_no_gradients_stay_in_eval_mode_and_thaw_again():
    model = build(config_of(), Colours().words()).model
    names = frozenset(name for name, _ in model.named_parameters() if name != "word_bias")
    let_learn(model, names, ("text",))
    model.frozen = ("text",)
    model.train()
    assert not model.text.training
    assert model.vision.training
    assert not any(p.requires_grad for p in model.text.parameters())
    assert model.text_head.weight.requires_grad
    assert not model.word_bias.requires_grad
    let_learn(model, names, ())
    assert all(p.requires_grad for p in model.text.parameters())


def test_another_seed_gives_other_weights(tmp_path):
    one, other = (weights_after(tmp_path / str(seed), config_of(seed=seed)) for seed in (0, 1))
    assert not torch.equal(one["text_head.weight"], other["text_head.weight"])


def test_a_run_learns_exports_and_is_not_done_twice(tmp_path):
    config = config_of(
        steps=200,
        losses={"negatives": 3, "masking": "categories"},
        optimizer={"lr": 0.005, "warmup_steps": 5},
        validation={"every": 50, "depth": 4},
        checkpoint_every=200,
    )
    seen, checked = [], []
    listener = Listener(lambda step, losses: seen.append((step, losses)), lambda step, _: checked.append(step))
    source = Colours()
    record = train(config, source, tmp_path, listener=listener, device="cpu")
    assert record["metrics"]["fast_r1"] == 100
    assert record["metrics"]["fused_r1"] == 100
    assert seen[-1][1]["contrast"] < seen[0][1]["contrast"] / 2
    assert seen[-1][1]["masked_words"] < 0.3
    assert checked == [50, 100, 150, 200]
    assert json.loads((tmp_path / "training.json").read_text()) == record
    assert finished(tmp_path, run_digest(config, source.digest)) == record
    assert finished(tmp_path, run_digest(config_of(), source.digest)) is None
    assert not (tmp_path / "checkpoints").exists()

    encoder = TrainedEncoder(tmp_path, dtype=torch.float32, device=torch.device("cpu"), fingerprint="f")
    gallery = source.validation()
    similarity = (
        encoder.encode_text(gallery.captions)["embedding"]
        @ encoder.encode_visual(torch.from_numpy(gallery.visuals[0]))["embedding"].T
    )
    assert (similarity.argmax(1) == np.arange(4)).all()


def test_a_run_begins_from_a_checkpoint_of_its_shape_and_from_no_other(tmp_path):
    first = train(config_of(), Colours(), tmp_path / "first", device="cpu")
    config = config_of(initial=str(tmp_path / "first"))
    built = build(config, ["other", "words"])  # the tokenizer is the checkpoint's
    trained = load_file(tmp_path / "first" / "model.safetensors")
    assert all(torch.equal(weight, trained[name]) for name, weight in built.model.state_dict().items())
    assert built.tokenizer.convert_tokens_to_ids("red") != built.tokenizer.unk_token_id
    digest = run_digest(config, "d")
    again = train(config_of(seed=2), Colours(), tmp_path / "first", device="cpu", resume=False)
    assert again["digest"] != first["digest"]
    assert run_digest(config, "d") != digest  # other weights, another run
    wider = config_of(initial=str(tmp_path / "first"))
    wider = wider.model_copy(update={"model": wider.model.model_copy(update={"embedding_dim": 4})})
    with pytest.raises(ModelError, match="expected a model of the shape of this config; size mismatch"):
        build(wider, [])
    other = config_of(initial=str(tmp_path / "first"), model={"architecture": "cooperative"}, losses={})
    with pytest.raises(ModelError, match="expected a model of type fastslow-cooperative, got fastslow-loopitr"):
        build(other, [])


def test_half_precision_export_takes_half_the_bytes_and_loads(tmp_path):
    config = config_of(steps=2, export_dtype="float16")
    train(config, Colours(), tmp_path, device="cpu")
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    encoder = TrainedEncoder(tmp_path, dtype=torch.float32, device=torch.device("cpu"), fingerprint="f")
    assert encoder.encode_text(["a red thing"])["embedding"].dtype == np.float32


def test_training_in_bfloat16_validates_in_float32(tmp_path):
    config = config_of(steps=2, precision="bfloat16")
    assert train(config, Colours(), tmp_path, device="cpu")["metrics"]["fast_r1"] >= 0


@pytest.mark.parametrize(
    ("precision", "flags", "mixed", "warned"),
    [
        ("auto", [], "no", False),
        ("auto", ["amx_bf16"], "bf16", False),
        ("bfloat16", [], "bf16", True),
        ("float32", ["amx_bf16"], "no", False),
    ],
)
def test_bfloat16_where_the_processor_has_it(monkeypatch, caplog, precision, flags, mixed, warned):
    monkeypatch.setattr(loop, "cpu_flags", lambda: flags)
    accelerator = accelerator_of(config_of(steps=1, precision=precision), "cpu")
    assert accelerator.mixed_precision == mixed
    assert ("many times slower" in caplog.text) == warned


def test_training_stops_when_nothing_gets_better(tmp_path):
    config = config_of(steps=40, optimizer={"lr": 1e-12}, validation={"every": 2, "patience": 2})
    built = build(config, Colours().words())
    progress = fit(built, config, Colours(), folder=tmp_path, accelerator=accelerator_of(config, "cpu"))
    assert progress.step < 40
    assert progress.worse == 2


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    config = config_of(steps=40, optimizer={"lr": 1e30, "warmup_steps": 0, "clip_norm": 1e30}, validation={"every": 40})
    built = build(config, Colours().words())
    with pytest.raises(ModelError, match="the loss is"):
        fit(built, config, Colours(), folder=tmp_path, accelerator=accelerator_of(config, "cpu"))


def test_the_learning_rate_rises_then_falls_to_its_floor():
    factors = [lr_factor(step, steps=100, warmup_steps=10, final_fraction=0.1) for step in range(101)]
    assert factors[9] == 1
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.1)


def test_groups_hold_every_parameter_once_and_freeze_what_has_no_rate():
    config = config_of(optimizer={"freeze_word_embeddings": True, "lr": 0.01})
    model = build(config, Colours().words()).model
    groups = parameter_groups(model, config.optimizer, factors={"vision.backbone": 0.0, "text": 0.5})
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in model.vision.backbone.parameters())
    assert not model.text.embeddings.word_embeddings.weight.requires_grad
    for group in groups:
        for parameter in group["params"]:
            assert parameter.ndim >= 2 or group["weight_decay"] == 0
    assert {group["peak"] for group in groups} == {0.01, 0.005}


def test_recall_counts_ties_against_the_model_and_fuses_where_it_helps():
    fast = np.array([[0.9, 0.8, 0.1], [0.5, 0.5, 0.5], [0.3, 0.2, 0.1]], np.float32)
    candidates = np.array([[0, 1], [0, 1], [0, 1]])
    slow = np.array([[0.0, 0.01], [1.0, 3.0], [2.0, 1.0]], np.float32)
    result = recall(fast, slow, candidates, np.array([0, 1, 2]))
    assert result.fast == (pytest.approx(100 / 3), 100.0, 100.0)
    assert result.reranked == pytest.approx(100 / 3)  # the second; the third is not among its candidates
    assert result.fused == pytest.approx(200 / 3)
    assert result.beta > 0
    assert recall(fast * 0, slow * 0, candidates, np.array([0, 1, 2])).fast[0] == 0


def test_each_word_is_a_token_of_its_category():
    tokenizer = word_tokenizer(["red", "circle", "a"], max_words=6)
    table = token_categories(tokenizer, {"shapes": ["circle", "square"], "colours": ["red"]})
    ids = tokenizer("A red circle zebra")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "red", "circle", "[UNK]", "[SEP]"]
    assert table[ids].tolist() == [-1, -1, 0, 1, -1, -1]


def test_augmentation_keeps_shape_is_seeded_and_moves_frames_alike():
    picture = torch.rand(3, 1, 3, 8, 8)
    clip = picture.expand(-1, 4, -1, -1, -1)
    options = {"crop_scale": 0.5, "flip": True, "jitter": 0.2}
    one, again = (augment(clip, **options, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert one.shape == clip.shape
    assert torch.equal(one, again)
    assert torch.equal(one[:, 0], one[:, 3])
    assert not torch.allclose(one, clip)
    same = augment(clip, crop_scale=1.0, flip=False, jitter=0.0, generator=torch.Generator().manual_seed(1))
    assert same.shape == clip.shape


def test_an_unknown_key_is_named_with_the_allowed_ones():
    with pytest.raises(ConfigError, match=r"optimizer\.rate: unknown key; allowed here: beta2"):
        config_of(optimizer={"rate": 1})
