"""The network looks where it should and nowhere else; every part learns; a checkpoint comes back as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders.architectures.encoder import TrainedEncoder
from encoders.architectures.loopitr import LoopITRModel, LoopITRObjective
from encoders.base import DualEncoder, PairScorer
from encoders.training.batches import Inputs, tokenise
from encoders.training.build import build, preprocessor_config
from schemas.configs import parse
from schemas.errors import ConfigError, ModelError
from schemas.training import TrainConfig

WORDS = ["a", "red", "blue", "circle", "square", "left", "of"]
CPU = torch.device("cpu")


def tiny(**model) -> TrainConfig:
    shape = {
        "image_size": 16,
        "grid": 2,
        "visual_width": 16,
        "visual_layers": 1,
        "visual_heads": 2,
        "small_text": {"width": 16, "layers": 1, "heads": 2},
        "fusion_layers": 2,
        "fusion_heads": 2,
        "embedding_dim": 8,
        "max_words": 12,
    }
    value = {
        "name": "tiny",
        "steps": 2,
        "batch_size": 4,
        "model": {"architecture": "loopitr", **shape, **model},
        "data": {"kind": "scenes"},
    }
    return parse(TrainConfig, value, source="test")


@pytest.fixture(scope="module")
def built():
    made = build(tiny(), WORDS)
    made.model.eval()
    return made


@pytest.fixture(scope="module")
def encoder(built, adapter) -> TrainedEncoder:
    return adapter(built)


def pixels(count: int, frames: int = 1, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, frames, 16, 16, 3), np.uint8)
    return torch.from_numpy(values)


def fused_cls(model: LoopITRModel, ids: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.fuse(model.encode_text(ids, mask)[0], mask, tokens)[:, 0]


def test_the_last_word_reaches_the_matching_head(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle left of a blue square"] * 2, max_words=12, device=CPU)
    ids[1, -2] = built.tokenizer.convert_tokens_to_ids("circle")
    tokens = torch.randn(1, 4, 16).expand(2, -1, -1)
    cls = fused_cls(built.model, ids, mask, tokens)
    assert (cls[0] - cls[1]).abs().max() > 1e-3


def test_the_last_word_reaches_the_matching_head_within_the_fusion_layers_alone(built):
    states, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    other = states.clone()
    other[:, -1] = torch.randn(16)
    tokens = torch.randn(1, 4, 16)
    with torch.inference_mode():
        a, b = (built.model.fuse(one, mask, tokens)[:, 0] for one in (states, other))
    assert (a - b).abs().max() > 1e-3


def test_padding_changes_nothing(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle", "a blue square left of a red"], max_words=12, device=CPU)
    tokens = torch.randn(1, 4, 16).expand(2, -1, -1)
    changed = ids.clone()
    changed[~mask] = 6
    assert (~mask).any()
    torch.testing.assert_close(
        fused_cls(built.model, ids, mask, tokens), fused_cls(built.model, changed, mask, tokens), rtol=0, atol=1e-6
    )
    with torch.inference_mode():
        before, after = (built.model.encode_text(one, mask)[1] for one in (ids, changed))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_hidden_visual_tokens_are_not_looked_at(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle"], max_words=12, device=CPU)
    states = built.model.encode_text(ids, mask)[0]
    tokens = torch.randn(1, 6, 16)
    token_mask = torch.tensor([[True] * 4 + [False] * 2])
    with torch.inference_mode():
        short = built.model.fuse(states, mask, tokens[:, :4])
        padded = built.model.fuse(states, mask, tokens, token_mask)
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-5)


def test_pairs_by_row_equal_pairs_written_out(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle", "a blue square", "a red square"], max_words=12, device=CPU)
    states = built.model.encode_text(ids, mask)[0]
    tokens, rows = torch.randn(2, 4, 16), torch.tensor([1, 0, 1])
    with torch.inference_mode():
        by_row = built.model.fuse(states, mask, tokens, rows=rows)
        written = built.model.fuse(states, mask, tokens[rows])
    torch.testing.assert_close(by_row, written, rtol=0, atol=1e-5)


def test_the_order_of_frames_and_of_places_is_seen(encoder):
    clip = pixels(1, frames=4)
    assert not np.allclose(encoder.encode_visual(clip)["embedding"], encoder.encode_visual(clip.flip(1))["embedding"])
    assert not np.allclose(encoder.encode_visual(clip)["embedding"], encoder.encode_visual(clip.flip(3))["embedding"])
    assert encoder.visual_cache(clip).shape == (1, 16, 16)
    assert encoder.encode_visual(pixels(2, frames=7))["embedding"].shape == (2, 8)


def test_the_encoder_is_both_sides_and_equals_the_network(encoder, built):
    assert isinstance(encoder, DualEncoder)
    assert isinstance(encoder, PairScorer)
    texts = ["a red circle", "a blue square left of a red circle", "a red circle"]
    vectors = encoder.encode_text(texts)["embedding"]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_text(texts[:1])["embedding"], vectors[:1], atol=1e-6)
    before = encoder.pair_evaluations
    cache = encoder.visual_cache(pixels(3))
    scores = encoder.score(texts, cache)
    assert encoder.pair_evaluations - before == 3
    ids, mask = tokenise(built.tokenizer, texts, max_words=12, device=CPU)
    with torch.inference_mode():
        fused = built.model.fuse(built.model.encode_text(ids, mask)[0], mask, cache)
        logits = built.model.match_logits(fused)
    np.testing.assert_allclose(scores, (logits[:, 1] - logits[:, 0]).numpy(), atol=1e-5)


def test_a_score_does_not_depend_on_its_neighbours(encoder):
    cache = encoder.visual_cache(pixels(2))
    together = encoder.score(["a red circle", "a blue square left of a red circle"], cache)
    np.testing.assert_allclose(encoder.score(["a red circle"], cache[:1]), together[:1], atol=1e-5)
    with pytest.raises(ModelError, match="2 and 1"):
        encoder.score(["a", "b"], cache[:1])


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_text([])["embedding"].shape == (0, 8)
    assert encoder.score([], encoder.visual_cache(pixels(1))[:0]).shape == (0,)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not a trained checkpoint"):
        TrainedEncoder(tmp_path, dtype=torch.float32, device=CPU, fingerprint="f")


def test_positions_start_on_the_scale_of_words(built):
    weights = {name: weight.detach() for name, weight in built.model.named_parameters()}
    word, position = (weights[f"text.embeddings.{kind}_embeddings.weight"].std() for kind in ("word", "position"))
    assert 0.7 < float(position / word) < 1.4
    assert float(weights["vision.space"].std()) == pytest.approx(0.5, abs=0.15)


def inputs_of(built, count: int, groups: tuple[int, ...]) -> Inputs:
    texts = ["a red circle left of a blue square", "a blue circle", "a red square left of a circle", "a square"]
    ids, mask = tokenise(built.tokenizer, texts[:count], max_words=12, device=CPU)
    special = torch.tensor(built.tokenizer.all_special_ids)
    each = count // len(groups)
    visuals = tuple(torch.randn(each, frames, 3, 16, 16) for frames in groups)
    return Inputs(visuals, ids, mask, mask & ~torch.isin(ids, special), torch.arange(count))


@pytest.mark.parametrize("groups", [(1,), (1, 4)])
def test_a_gradient_reaches_every_parameter(groups):
    config = tiny()
    made = build(config, WORDS)
    made.model.train()
    objective = LoopITRObjective(made.model, config.losses, mask_id=made.tokenizer.mask_token_id, category=None)
    losses = objective(
        inputs_of(made, 4, groups), task="joint", progress=1.0, generator=torch.Generator().manual_seed(0)
    )
    assert set(losses) == {"contrast", "matching", "distillation", "masked_words", "total"}
    losses["total"].backward()
    without = {name for name, parameter in made.model.named_parameters() if parameter.grad is None}
    assert without <= ({"vision.time"} if groups == (1,) else set())


def test_pairs_of_part_of_a_batch_give_the_losses_that_part_would_give():
    config = tiny()
    made = build(config, WORDS)
    made.model.train(False)
    inputs = inputs_of(made, 4, (1,))
    losses = config.losses.model_copy(update={"match_rows": 2, "negative_choice": "top", "masked_words": 0.0})
    objective = LoopITRObjective(made.model, losses, mask_id=made.tokenizer.mask_token_id, category=None)
    each = []
    for seed in range(12):
        found = objective(inputs, task="joint", progress=1.0, generator=torch.Generator().manual_seed(seed))
        each.append((found["matching"].item(), found["distillation"].item()))
    whole = LoopITRObjective(
        made.model,
        losses.model_copy(update={"match_rows": None}),
        mask_id=made.tokenizer.mask_token_id,
        category=None,
    )(inputs, task="joint", progress=1.0, generator=torch.Generator().manual_seed(0))
    for value, name in zip(zip(*each, strict=True), ("matching", "distillation"), strict=True):
        assert len(set(value)) > 1  # other rows are drawn
        assert min(value) < whole[name].item() < max(value)  # whose mean over all draws is the whole


def test_the_residual_is_the_cross_entropy_of_both_scores_and_leaves_the_vectors_alone():
    config = tiny(visual_dropout=0.5)
    made = build(config, WORDS)
    model = made.model
    model.frozen = type(model).STAGES["residual"].frozen
    model.train(True)
    inputs = inputs_of(made, 4, (1,))
    losses = config.losses.model_copy(update={"negatives": 3, "negative_choice": "top"})
    objective = LoopITRObjective(model, losses, mask_id=made.tokenizer.mask_token_id, category=None)
    model.vision.dropout.train(False)  # for the numbers to be compared
    model.vision.dropout.p = 0.0
    found = objective(inputs, task="residual", progress=0.0, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, pictures = model.encode_visual(inputs.visuals[0])
        texts = model.text_vectors(inputs.ids, inputs.mask)["embedding"]
        fast = (texts @ pictures.T).numpy() / float(model.temperature())
        rows = torch.arange(4).repeat_interleave(4)
        slow = model.pair_scores(inputs.ids, inputs.mask, rows, tokens.repeat(4, 1, 1)).view(4, 4).numpy()
    both = slow + fast  # all four pictures are candidates of each text
    expected = np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(both)])
    assert found["residual"].item() == pytest.approx(expected, abs=1e-4)
    found["total"].backward()
    learnt = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"fusion_blocks", "match_head", "vision", "text"} <= learnt
    assert not learnt & {"visual_head", "text_head", "visual_pool", "temperature"}


def test_vectors_from_the_backbone_s_mean_need_no_tokens_and_see_all_frames():
    made = build(tiny(visual_pool="backbone", visual_norm="batch"), WORDS)
    model = made.model.train(False)
    pixels = torch.randn(2, 3, 3, 16, 16)
    features = model.vision.look(pixels)
    expected = torch.nn.functional.normalize(model.visual_head(features.mean((1, 2))), dim=-1)
    torch.testing.assert_close(model.visual_vectors(pixels)["embedding"], expected)
    torch.testing.assert_close(model.encode_visual(pixels)[1], expected)
    assert model.visual_pool is None


def test_heads_are_an_ensemble_in_one_vector_each_with_its_own_contrast():
    torch.manual_seed(0)
    made = build(tiny(heads=2, head_hidden=8), WORDS)
    model = made.model.eval()
    texts = ["a red circle", "a blue square", "a red square", "a blue circle left of a red circle"]
    ids, mask = tokenise(made.tokenizer, texts, max_words=12, device=CPU)
    visual = torch.randn(4, 1, 3, 16, 16)
    with torch.inference_mode():
        text, picture = model.text_vectors(ids, mask)["embedding"], model.visual_vectors(visual)["embedding"]
        cosine = torch.nn.functional.cosine_similarity
        parts = [(text[:, at : at + 4], picture[:, at : at + 4]) for at in (0, 4)]
        torch.testing.assert_close((text * picture).sum(1), sum(cosine(a, b) for a, b in parts) / 2)
        losses = LoopITRObjective(
            model, parse(TrainConfig, tiny(heads=2).model_dump(), source="test").losses, mask_id=4, category=None
        )
        inputs = Inputs((visual,), ids, mask, mask, torch.arange(4))
        got = losses(inputs, task="contrast", progress=0.0, generator=torch.Generator())["contrast"]
        wanted = []
        for a, b in parts:
            logits = cosine(a[:, None], b[None], dim=-1) / model.temperature()
            wanted += [-logits.log_softmax(1).diagonal().mean(), -logits.T.log_softmax(1).diagonal().mean()]
    torch.testing.assert_close(got, torch.stack(wanted).mean())


def test_a_mirrored_picture_has_the_vector_of_the_picture_where_asked():
    visual = torch.randn(2, 1, 3, 16, 16)
    for mirror in (False, True):
        torch.manual_seed(0)
        model = build(tiny(visual_mirror=mirror), WORDS).model.eval()
        with torch.inference_mode():
            seen, turned = (model.visual_vectors(one)["embedding"] for one in (visual, visual.flip(-1)))
            torch.testing.assert_close(seen.norm(dim=-1), torch.ones(2))
            assert torch.allclose(seen, turned, atol=1e-6) == mirror
            model.train()
            seen, turned = (model.visual_vectors(one)["embedding"] for one in (visual, visual.flip(-1)))
            assert not torch.allclose(seen, turned, atol=1e-4)  # learns from the picture itself


def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ConfigError, match="multiple of it, got 3"):
        tiny(heads=3)


def test_earlier_text_layers_join_the_vector_and_not_the_fusion():
    made = build(tiny(text_layers=[0], text_norm="batch", text_pool="mean"), WORDS)
    model = made.model.eval()
    ids, mask = tokenise(made.tokenizer, ["a red circle", "a blue square of a"], max_words=12, device=CPU)
    with torch.inference_mode():
        states, vectors = model.encode_text(ids, mask)
        read = model.text(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        torch.testing.assert_close(states, torch.cat([read.last_hidden_state, read.hidden_states[0]], -1))
        tokens = torch.randn(2, 4, 16)
        torch.testing.assert_close(model.fuse(states, mask, tokens), model.fuse(states[..., :16], mask, tokens))
        model.text_pool.standardise.running_mean[16:] += 1.0  # of the earlier layer
        assert (model.encode_text(ids, mask)[1] - vectors).abs().max() > 1e-3
    with pytest.raises(ModelError, match="text_layers: expected numbers below 2"):
        build(tiny(text_layers=[2]), WORDS).model.text_states(ids, mask)


def test_channels_are_standardised_by_what_training_met_and_then_left_alone():
    made = build(tiny(visual_norm="batch"), WORDS)
    tower = made.model.vision
    made.model.train(True)
    pixels = torch.randn(16, 1, 3, 16, 16)
    with torch.no_grad():
        seen = tower.look(pixels)
        for _ in range(60):  # running statistics reach those of the only batch there is
            tower.look(pixels)
        flat = seen.flatten(0, 2)
        torch.testing.assert_close(flat.mean(0), torch.zeros(flat.shape[1]), atol=1e-4, rtol=0)
        made.model.train(False)
        one = tower.look(pixels[:1])
        torch.testing.assert_close(one, tower.look(pixels)[:1], atol=1e-5, rtol=1e-4)
        before = tower.standardise.running_mean.clone()
        tower.look(10 + pixels)
        torch.testing.assert_close(tower.standardise.running_mean, before)


def test_distillation_waits_for_its_start():
    config = tiny()
    made = build(config, WORDS)
    objective = LoopITRObjective(made.model, config.losses, mask_id=made.tokenizer.mask_token_id, category=None)
    inputs = inputs_of(made, 4, (1,))
    early, late = (
        objective(inputs, task="joint", progress=p, generator=torch.Generator().manual_seed(0)) for p in (0.0, 1.0)
    )
    difference = (late["total"] - early["total"]).item()
    assert difference == pytest.approx(late["distillation"].item(), abs=1e-5)


def test_a_batch_of_one_picture_has_no_negatives_and_does_not_fail():
    config = tiny()
    made = build(config, WORDS)
    inputs = inputs_of(made, 4, (1,))
    same = Inputs(inputs.visuals, inputs.ids, inputs.mask, inputs.maskable, torch.zeros(4, dtype=torch.int64))
    objective = LoopITRObjective(made.model, config.losses, mask_id=made.tokenizer.mask_token_id, category=None)
    losses = objective(same, task="joint", progress=1.0, generator=torch.Generator().manual_seed(0))
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["distillation"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["vit", "mobilenet"])
def test_any_hugging_face_tower_fits_and_the_checkpoint_needs_no_other(name, tower, tmp_path):
    from transformers import AutoModel

    found = tower(name)
    made = build(tiny(vision=str(found.folder), image_size=found.size), WORDS)
    made.model.eval()
    picture = torch.randn(2, 3, found.size, found.size)
    with torch.inference_mode():
        direct = AutoModel.from_pretrained(found.folder).eval()(pixel_values=picture).last_hidden_state
        ours = made.model.backbone_features(picture)
    direct = direct.flatten(2).transpose(1, 2) if direct.ndim == 4 else direct
    torch.testing.assert_close(ours, direct, rtol=1e-5, atol=1e-5)
    assert ours.shape[1] == made.model.config.frame_tokens
    made.model.save_pretrained(tmp_path / "whole")
    for file in found.folder.iterdir():
        file.unlink()
    again = LoopITRModel.from_pretrained(tmp_path / "whole")
    for name, weight in made.model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_stored_batch_statistics_stay_while_training(tower):
    model = build(tiny(vision=str(tower("mobilenet").folder), image_size=32), WORDS).model.train()
    before = {name: value.clone() for name, value in model.vision.named_buffers()}
    model.backbone_features(torch.randn(4, 3, 32, 32))
    for name, value in model.vision.named_buffers():
        assert torch.equal(before[name], value), name


def test_a_missing_backbone_is_one_clear_error():
    missing = str(Path("/nonexistent/backbone"))
    with pytest.raises(ModelError, match="text backbone"):
        build(tiny(text=missing), WORDS)


def test_a_checkpoint_that_lacks_a_weight_is_refused_and_not_made_up(built, tmp_path):
    built.model.save_pretrained(tmp_path)
    built.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(built.spec)))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["match_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing, the first: match_head\.weight"):
        TrainedEncoder(tmp_path, dtype=torch.float32, device=CPU, fingerprint="f")
