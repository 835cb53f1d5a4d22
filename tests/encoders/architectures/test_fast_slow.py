"""Captions are told from the words read so far and a picture; the sides share nothing; a teacher only teaches."""

import math

import numpy as np
import pytest
import torch

from encoders.architectures.encoder import TrainedEncoder
from encoders.architectures.fast_slow import FastSlowModel, FastSlowObjective, reversed_words
from encoders.base import DualEncoder, PairScorer
from encoders.layers import join_groups
from encoders.training.batches import Inputs, tokenise
from encoders.training.build import build
from encoders.training.stages import let_learn
from schemas.configs import parse
from schemas.errors import ConfigError, ModelError
from schemas.training import TrainConfig

WORDS = ["a", "red", "blue", "circle", "square", "left", "of"]
TEXTS = ["a red circle left of a blue square", "a blue circle", "a red square left of a circle", "a square"]
CPU = torch.device("cpu")


def tiny(losses: dict | None = None, **model) -> TrainConfig:
    shape = {
        "image_size": 16,
        "grid": 2,
        "visual_width": 16,
        "visual_layers": 1,
        "slow_visual_layers": 1,
        "visual_heads": 2,
        "small_text": {"width": 16, "layers": 1, "heads": 2},
        "decoder_width": 12,
        "decoder_heads": 2,
        "embedding_dim": 8,
        "max_words": 12,
    }
    value = {
        "name": "tiny",
        "steps": 2,
        "batch_size": 4,
        "model": {"architecture": "fast_slow", **shape, **model},
        "losses": losses or {},
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


def tokens(built, texts=TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    return tokenise(built.tokenizer, texts, max_words=12, device=CPU)


def picture(count: int = 1, frames: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def inputs_of(built, groups: tuple[int, ...] = (1,)) -> Inputs:
    ids, mask = tokens(built)
    visuals = tuple(picture(len(TEXTS) // len(groups), frames, seed=frames) for frames in groups)
    special = torch.tensor(built.tokenizer.all_special_ids)
    return Inputs(visuals, ids, mask, mask & ~torch.isin(ids, special), torch.arange(len(TEXTS)))


def objective_of(made, config: TrainConfig) -> FastSlowObjective:
    return FastSlowObjective(made.model, config.losses, mask_id=made.tokenizer.mask_token_id, category=None)


def losses_of(objective, inputs: Inputs, task: str) -> dict[str, torch.Tensor]:
    return objective(inputs, task=task, progress=0.0, generator=torch.Generator().manual_seed(0))


def word_nats(model: FastSlowModel, read: torch.Tensor, visual: torch.Tensor, direction: int) -> torch.Tensor:
    """Log p of each word after the first of one text as a direction reads it, int64 (L,)."""
    slow = model.slow
    with torch.inference_mode():
        words = slow.embed(read[None, :-1])
        logits = slow.word_logits(slow.decoders[direction](words, slow.maps(slow.cache(visual))))[0]
        return logits.log_softmax(-1).gather(1, read[1:, None])[:, 0]


def test_a_score_is_the_sum_over_all_words_and_the_end_both_ways(built):
    ids, mask = tokens(built)
    visual = picture()
    assert (~mask).any()
    expected = []
    for row, seen in zip(ids, mask, strict=True):  # each text alone, unpadded: [CLS] ... [SEP], then back
        text = row[seen]
        both = (word_nats(built.model, text, visual, 0), word_nats(built.model, text.flip(0), visual, 1))
        assert [len(nats) for nats in both] == [len(text) - 1] * 2  # the end is told, the start is given
        expected.append(sum(float(nats.sum()) for nats in both))
    with torch.inference_mode():
        cache = built.model.visual_cache(visual).expand(len(ids), -1, -1)
        found = built.model.pair_scores(ids, mask, torch.arange(len(ids)), cache)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("direction", [0, 1])
def test_no_word_is_told_from_itself_or_from_what_is_read_later(built, direction):
    text = tokens(built, TEXTS[:1])[0][0]
    text = text.flip(0) if direction else text
    before = word_nats(built.model, text, picture(), direction)
    for place in range(1, len(text) - 1):
        other = text.clone()
        other[place] = built.tokenizer.convert_tokens_to_ids("blue" if text[place] != 6 else "red")
        after = word_nats(built.model, other, picture(), direction)
        torch.testing.assert_close(before[: place - 1], after[: place - 1], rtol=0, atol=1e-6)
        assert (before[place:] - after[place:]).abs().max() > 1e-5  # what is read later does know it


def test_backwards_is_the_reversed_text_with_padding_still_last():
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0], [2, 3, 0, 0, 0]])
    read = reversed_words(ids, ids > 0)
    assert read.tolist() == [[3, 9, 8, 7, 2], [3, 7, 2, 0, 0], [3, 2, 0, 0, 0]]


def test_padding_of_texts_changes_nothing(built):
    ids, mask = tokens(built)
    changed = ids.masked_fill(~mask, 6)
    wider = torch.nn.functional.pad(ids, (0, 2)), torch.nn.functional.pad(mask, (0, 2))
    cache, rows = built.model.visual_cache(picture(4)), torch.arange(4)
    with torch.inference_mode():
        expected = built.model.pair_scores(ids, mask, rows, cache)
        for texts in ((changed, mask), wider):
            torch.testing.assert_close(built.model.pair_scores(*texts, rows, cache), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            built.model.text_vectors(changed, mask)["embedding"],
            built.model.text_vectors(ids, mask)["embedding"],
            rtol=0,
            atol=1e-6,
        )


def test_pictures_and_clips_in_one_call_score_as_they_do_alone(built):
    ids, mask = tokens(built)
    model, rows = built.model, torch.tensor([2, 0, 1, 1, 3])
    with torch.inference_mode():
        caches = [model.visual_cache(group) for group in (picture(2), picture(3, frames=4))]
        cache, cache_mask = join_groups(caches)
        found = model.pair_scores(ids, mask, rows, cache, cache_mask)
        alone = torch.cat(
            [model.pair_scores(ids, mask, rows[:2], caches[0]), model.pair_scores(ids, mask, rows[2:], caches[1])]
        )
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-4)


def test_pairs_by_row_equal_pairs_written_out_and_taken_in_turns(built, monkeypatch):
    ids, mask = tokens(built)
    slow, rows, pictures = built.model.slow, torch.tensor([1, 0, 3, 2, 2]), torch.tensor([1, 0, 1, 1, 0])
    with torch.inference_mode():
        cache = slow.cache(picture(2))
        by_row = slow.log_likelihood(ids, mask, slow.maps(cache), rows, pictures)
        monkeypatch.setattr("encoders.architectures.fast_slow.PAIRS_AT_ONCE", 2)
        written = built.model.pair_scores(ids, mask, rows, cache[pictures])
    torch.testing.assert_close(by_row, written, rtol=0, atol=1e-4)


def test_maps_are_kept_frame_by_frame_coarse_before_fine(built):
    slow, clip = built.model.slow, picture(2, frames=4)
    with torch.inference_mode():
        cache = built.model.visual_cache(clip)
        maps = slow.maps(cache)
        coarse = slow.vision(clip)
    assert cache.shape == (2, 4 * (4 + 16), 16)
    assert {level: tuple(found.shape) for level, found in maps.items()} == {0: (2, 16, 16), 1: (2, 64, 16)}
    torch.testing.assert_close(maps[0], coarse)
    torch.testing.assert_close(cache[:, 20:24], coarse[:, 4:8])  # the second frame's coarse map


def test_each_fine_cell_lies_in_the_coarse_cell_and_in_the_place_of_the_picture_it_is_made_of(built):
    finer = built.model.slow.finer[0]
    with torch.inference_mode():
        coarse, stage = torch.zeros(1, 4, 16), torch.zeros(1, finer.lateral.in_features, 4, 4)
        still = finer(coarse, stage)
        lit, seen = coarse.clone(), stage.clone()
        lit[0, 2] = torch.randn(16)  # bottom left of 2 x 2
        seen[0, :, 1, 3] = torch.randn(len(seen[0]))
        reached = [(finer(*one) - still).abs().amax(2).view(4, 4) > 1e-6 for one in ((lit, stage), (coarse, seen))]
    # With the cells next to them, at which the convolution looks.
    for found, (rows, columns) in zip(reached, ((slice(1, 4), slice(0, 3)), (slice(0, 3), slice(2, 4))), strict=True):
        expected = torch.zeros(4, 4, dtype=torch.bool)
        expected[rows, columns] = True
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "layers", "cells"),
    [
        ({"levels": 1}, [0, 0], 4),
        ({"levels": 3, "decoder_layers": 3}, [0, 1, 2], 4 + 16 + 64),
        ({"levels": 2, "decoder_layers": 3}, [0, 0, 1], 4 + 16),
        ({"decoder_levels": [1, 1]}, [1, 1], 16),
    ],
)
def test_deeper_layers_look_at_finer_maps_and_only_maps_that_are_looked_at_are_kept(changes, layers, cells):
    model = build(tiny(**changes), WORDS).model.eval()
    assert [decoder.levels for decoder in model.slow.decoders] == [layers, layers]
    with torch.inference_mode():
        cache = model.visual_cache(picture(2))
    assert cache.shape == (2, cells, 16)
    looked_at = {level: found.shape[1] for level, found in model.slow.maps(cache).items()}
    assert looked_at == {level: 4 * 4**level for level in set(layers)}


@pytest.mark.parametrize("levels", [[0], [0, 2]])
def test_levels_that_do_not_exist_are_refused(levels):
    with pytest.raises(ConfigError, match="decoder_levels: expected 2 numbers below 2"):
        tiny(decoder_levels=levels)


def test_directions_share_words_and_output_or_everything_or_there_is_one():
    own, shared, forward = (
        build(tiny(**changes), WORDS).model.eval()
        for changes in ({}, {"share_directions": "all"}, {"directions": "forward"})
    )
    assert [len(model.slow.decoders) for model in (own, shared, forward)] == [2, 1, 1]
    made = build(tiny(), WORDS)
    ids, mask = tokens(made)
    visual, rows = picture(4), torch.arange(4)
    ways = []
    for model in (shared, forward):
        with torch.inference_mode():
            maps = model.slow.maps(model.slow.cache(visual))
            found = model.slow.log_likelihood(ids, mask, maps, rows, rows).numpy()
        there = [float(word_nats(model, ids[i][mask[i]], visual[i : i + 1], 0).sum()) for i in range(4)]
        ways.append((found, np.array(there)))
    assert (ways[0][0] < ways[0][1] - 1e-3).all()  # and back
    np.testing.assert_allclose(ways[1][0], ways[1][1], atol=1e-4)


def test_the_order_of_words_and_of_frames_and_places_changes_the_score(encoder):
    generator = np.random.default_rng(0)
    clip = torch.from_numpy(generator.integers(0, 256, (1, 4, 16, 16, 3), np.uint8))
    text, swapped = "a red circle left of a blue square", "a blue circle left of a red square"
    score = encoder.score([text, swapped], encoder.visual_cache(clip).expand(2, -1, -1))
    assert abs(score[0] - score[1]) > 1e-3
    for other in (clip.flip(1), clip.flip(3)):
        assert abs(encoder.score([text], encoder.visual_cache(other))[0] - score[0]) > 1e-4
    assert encoder.visual_cache(clip[:, :3].repeat(1, 3, 1, 1, 1)).shape == (1, 9 * 20, 16)


def test_the_encoder_is_both_sides_and_equals_the_network(encoder, built):
    assert isinstance(encoder, DualEncoder)
    assert isinstance(encoder, PairScorer)
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 1, 16, 16, 3), np.uint8))
    cache = encoder.visual_cache(pixels)
    ids, mask = tokens(built)
    with torch.inference_mode():
        expected = built.model.pair_scores(ids, mask, torch.arange(4), cache)
        vectors = built.model.text_vectors(ids, mask)["embedding"]
    np.testing.assert_allclose(encoder.score(TEXTS, cache), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(encoder.encode_text(TEXTS)["embedding"], vectors.numpy(), atol=1e-6)
    with pytest.raises(ModelError, match="4 and 1"):
        encoder.score(TEXTS, cache[:1])


def learnt(made, stage: str, groups: tuple[int, ...]) -> tuple[set[str], set[str]]:
    """Parameters that got a gradient in a step of a stage, and those that did not."""
    model = made.model
    chosen = model.STAGES[stage]
    model.frozen = chosen.frozen
    let_learn(model, frozenset(name for name, _ in model.named_parameters()), chosen.frozen)
    model.train()
    model.zero_grad()
    losses_of(objective_of(made, tiny()), inputs_of(made, groups), chosen.tasks[0])["total"].backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    return got, {name for name, _ in model.named_parameters()} - got


@pytest.mark.parametrize(
    ("stage", "sides"),
    [
        ("slow", ("slow",)),
        ("both", ("fast", "slow")),
        ("fast", ("fast",)),
        ("fast_plain", ("fast",)),
        ("mutual", ("slow",)),
    ],
)
@pytest.mark.parametrize("groups", [(1,), (1, 4)])
def test_a_gradient_reaches_all_of_the_side_a_stage_trains_and_none_of_the_other(stage, sides, groups):
    made = build(tiny(), WORDS)
    got, without = learnt(made, stage, groups)
    assert {name.partition(".")[0] for name in got} == set(sides)
    timeless = {"fast.vision.time", "slow.vision.time"} if groups == (1,) else set()
    assert {name for name in without if name.startswith(sides)} <= timeless


def test_the_teacher_has_no_dropout_and_gets_no_gradient_while_the_student_learns():
    made = build(tiny(decoder_dropout=0.5, visual_dropout=0.5), WORDS)
    model, inputs = made.model, inputs_of(made)
    objective = objective_of(made, tiny())
    candidates = torch.arange(4)[None, :].expand(4, -1)
    model.frozen = ()
    model.train()
    assert not torch.equal(*(objective._scored(inputs, candidates) for _ in range(2)))  # what must not happen
    model.frozen = model.STAGES["fast"].frozen
    model.train()
    assert torch.equal(*(objective._scored(inputs, candidates) for _ in range(2)))
    assert model.fast.training
    assert model.fast.vision.dropout.training
    losses_of(objective, inputs, "distil")["total"].backward()  # also where nobody froze its parameters
    assert all(parameter.grad is None for parameter in model.slow.parameters())


def test_the_teacher_scores_each_text_with_its_candidates_whatever_group_they_are_in(built):
    inputs = inputs_of(built, (1, 4))
    candidates = torch.tensor([[0, 1, 3], [1, 2, 0], [2, 3, 1], [3, 0, 2]])
    found = objective_of(built, tiny())._scored(inputs, candidates)
    with torch.inference_mode():
        cache, cache_mask = join_groups([built.model.visual_cache(group) for group in inputs.visuals])
        rows, pictures = torch.arange(4).repeat_interleave(3), candidates.flatten()
        expected = built.model.pair_scores(inputs.ids, inputs.mask, rows, cache[pictures], cache_mask[pictures])
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-4)


def test_the_distillation_is_the_cross_entropy_to_a_softened_teacher_over_the_hardest_pictures():
    config = tiny(losses={"candidates": 3, "teacher_entropy": 0.6, "student_temperature": 0.5})
    made = build(config, WORDS)
    model, inputs = made.model.eval(), inputs_of(made)
    with torch.inference_mode():
        found = losses_of(objective_of(made, config), inputs, "distil")
        f, g = (
            model.fast.encode_visual(inputs.visuals[0]).numpy(),
            model.text_vectors(inputs.ids, inputs.mask)["embedding"].numpy(),
        )
        cache = model.visual_cache(inputs.visuals[0])
        h = np.array(
            [model.pair_scores(inputs.ids, inputs.mask, torch.full((4,), row), cache).numpy() for row in range(4)]
        )
    s = g @ f.T
    chosen = [[row, *[c for c in np.argsort(-s[row]) if c != row][:2]] for row in range(4)]
    near_h, near_s = np.take_along_axis(h, np.array(chosen), 1), np.take_along_axis(s, np.array(chosen), 1)

    def soft(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def entropy(tau: float) -> float:
        p = soft(near_h / tau)
        return float(-(p * np.log(p + 1e-30)).sum(1).mean())

    low, high = -7.0, 7.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(math.exp(middle)) < 0.6 * math.log(3) else (low, middle)
    tau = math.exp(low)
    expected = -(soft(near_h / tau) * np.log(soft(near_s / 0.5))).sum(1).mean()
    assert float(found["distillation"]) == pytest.approx(expected, abs=1e-3)
    assert float(found["total"]) == pytest.approx(float(found["contrast"] + found["distillation"]), abs=1e-5)


def test_the_mutual_loss_is_minus_the_log_posterior_of_the_own_picture_among_the_hardest():
    config = tiny(losses={"candidates": 3})
    made = build(config, WORDS)
    model, inputs = made.model.eval(), inputs_of(made, (1, 4))
    with torch.inference_mode():
        found = losses_of(objective_of(made, config), inputs, "mutual")
        caption = losses_of(objective_of(made, config), inputs, "slow")["caption"]
        f = torch.cat([model.fast.encode_visual(group) for group in inputs.visuals])
        s = model.text_vectors(inputs.ids, inputs.mask)["embedding"] @ f.T
        cache, cache_mask = join_groups([model.visual_cache(group) for group in inputs.visuals])
        expected = []
        for row in range(4):
            chosen = torch.tensor([row, *[int(c) for c in s[row].argsort(descending=True) if c != row][:2]])
            texts = torch.full((3,), row)
            h = model.pair_scores(inputs.ids, inputs.mask, texts, cache[chosen], cache_mask[chosen])
            expected.append(-(h / 2).log_softmax(0)[0])
    assert float(found["mutual"]) == pytest.approx(float(torch.stack(expected).mean()), abs=1e-3)
    assert float(found["caption"]) == pytest.approx(float(caption), rel=1e-5)
    assert float(found["total"]) == pytest.approx(float(found["caption"] + found["mutual"]), rel=1e-5)


def test_the_caption_loss_is_in_nats_a_caption_or_in_nats_a_word():
    made = build(tiny(), WORDS)
    inputs = inputs_of(made, (1, 4))
    a_caption, a_word = (
        losses_of(objective_of(made, tiny(losses={"caption_reduction": how})), inputs, "slow")["caption"].item()
        for how in ("sum", "mean")
    )
    told = 2 * int(inputs.mask[:, 1:].sum())
    assert a_caption * 4 == pytest.approx(a_word * told, rel=1e-5)


def test_a_batch_of_one_picture_has_no_other_candidates_and_does_not_fail():
    made = build(tiny(), WORDS)
    inputs = inputs_of(made)
    same = Inputs(inputs.visuals, inputs.ids, inputs.mask, inputs.maskable, torch.zeros(4, dtype=torch.int64))
    losses = losses_of(objective_of(made, tiny()), same, "distil")
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["distillation"].item() == pytest.approx(0, abs=1e-6)


def test_each_side_has_a_backbone_of_its_own(built):
    model = build(tiny(), WORDS).model.eval()
    mine = {id(parameter) for parameter in model.fast.parameters()}
    assert not mine & {id(parameter) for parameter in model.slow.parameters()}
    with torch.inference_mode():
        cache, vector = model.visual_cache(picture()), model.visual_vectors(picture())["embedding"]
        for parameter in model.fast.parameters():
            parameter.add_(0.1)
        assert torch.equal(model.visual_cache(picture()), cache)
        changed = model.visual_vectors(picture())["embedding"]
        assert not torch.equal(changed, vector)
        for parameter in model.slow.parameters():
            parameter.add_(0.1)
        assert torch.equal(model.visual_vectors(picture())["embedding"], changed)
        assert not torch.equal(model.visual_cache(picture()), cache)


def test_the_fast_score_is_a_cosine_whatever_the_temperature(built):
    model = build(tiny(temperature=0.01), WORDS).model.eval()
    ids, mask = tokens(built)
    with torch.inference_mode():
        s = model.text_vectors(ids, mask)["embedding"] @ model.visual_vectors(picture(3))["embedding"].T
    assert s.abs().max() <= 1 + 1e-6


def test_the_slow_side_learns_what_belongs_to_what():
    """Two pictures and two captions of the same words: only who is where tells them apart."""
    made = build(tiny(decoder_width=16), WORDS)
    texts = ["a red left of a blue", "a blue left of a red"] * 2
    ids, mask = tokens(made, texts)
    red, blue = torch.tensor([1.0, -1, -1])[:, None, None], torch.tensor([-1.0, -1, 1])[:, None, None]
    one = torch.cat([red.expand(3, 16, 8), blue.expand(3, 16, 8)], 2)
    visual = torch.stack([one, one.flip(2)] * 2)[:, None]
    inputs = Inputs((visual,), ids, mask, mask, torch.tensor([0, 1, 0, 1]))
    objective, model = objective_of(made, tiny(losses={"caption_reduction": "mean"})), made.model
    optimizer = torch.optim.AdamW(model.slow.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        losses_of(objective, inputs, "slow")["total"].backward()
        optimizer.step()
    with torch.inference_mode():
        cache = model.visual_cache(visual[:2])
        scores = model.pair_scores(ids, mask, torch.tensor([0, 0, 1, 1]), torch.cat([cache, cache])).view(2, 2)
    assert scores[0, 0] > scores[0, 1] + 1
    assert scores[1, 1] > scores[1, 0] + 1


@pytest.mark.parametrize(("name", "cells"), [("vit", 4), ("mobilenet", 1)])
def test_any_hugging_face_tower_fits_both_sides_and_its_cached_features_give_the_same(name, cells, tower):
    found = tower(name)
    made = build(tiny(vision=str(found.folder), image_size=found.size), WORDS)
    model = made.model.eval()
    for name, weight in model.fast.vision.backbone.state_dict().items():
        assert torch.equal(weight, model.slow.vision.backbone.state_dict()[name]), name
    visual = torch.randn(2, 4, 3, found.size, found.size)
    with torch.inference_mode():
        features = model.backbone_features(visual.flatten(0, 1)).unflatten(0, (2, 4))
        cache = model.visual_cache(visual)
        torch.testing.assert_close(model.visual_cache(features), cache, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            model.visual_vectors(features)["embedding"], model.visual_vectors(visual)["embedding"], rtol=0, atol=1e-5
        )
    assert features.shape[2] == model.config.frame_tokens
    assert cache.shape == (2, 4 * (cells + 4 * cells), 16)  # without [CLS]
    assert set(made.factors) == {"fast.vision.backbone", "slow.vision.backbone"}


def test_features_in_the_place_of_pixels_are_refused_where_earlier_stages_are_needed(built):
    with pytest.raises(ModelError, match="needs pixels"):
        built.model.visual_cache(torch.randn(1, 1, 4, 16))


def test_the_captioner_can_read_the_words_of_a_pretrained_text(tiny_model, adapter):
    made = build(tiny(text=str(tiny_model("bert")), decoder_words="text"), ["red", "circle", "left"])
    slow, embeddings = made.model.slow, made.model.fast.text.get_input_embeddings().weight
    told = made.model.config.decoder_vocabulary
    names = made.tokenizer.convert_ids_to_tokens(told)
    assert set(names) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "circle", "left"}
    torch.testing.assert_close(slow.word_vectors[:-1], embeddings[told])
    torch.testing.assert_close(slow.word_vectors[-1], embeddings[told].mean(0))
    ids, mask = tokenise(made.tokenizer, ["red dog", "red cat", "red circle"], max_words=12, device=CPU)
    made.model.eval()
    with torch.inference_mode():
        cache = made.model.visual_cache(torch.randn(1, 1, 3, 16, 16)).expand(3, -1, -1)
        dog, cat, circle = made.model.pair_scores(ids, mask, torch.arange(3), cache).tolist()
        logits = slow.word_logits(torch.zeros(1, 1, 12))
    assert dog == cat  # neither is told apart from other words
    assert circle != dog
    assert logits.shape == (1, 1, len(told) + 1)
    assert "word_vectors" not in dict(slow.named_parameters())
    again = adapter(made)
    np.testing.assert_allclose(again.score(["red circle"], cache[:1]), [circle], atol=1e-4)
    with pytest.raises(ConfigError, match=r"decoder_words: 'text' takes the words of a pretrained text encoder"):
        tiny(decoder_words="text")


def test_tokens_that_are_no_square_are_refused(built):
    config = built.model.config.__class__(**{**built.model.config.to_dict(), "frame_tokens": 15})
    config.frame_tokens = 90
    with pytest.raises(ModelError, match="frame_tokens 90"):
        FastSlowModel(config)


def test_stored_batch_statistics_of_both_sides_stay_while_training(tower):
    model = build(tiny(vision=str(tower("mobilenet").folder), image_size=32), WORDS).model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert any("running_mean" in name for name in before)
    visual = torch.randn(4, 1, 3, 32, 32)
    model.visual_vectors(visual)
    model.visual_cache(visual)
    for name, value in model.named_buffers():
        assert torch.equal(before[name], value), name


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    made = build(tiny(levels=3, decoder_layers=3, decoder_levels=[2, 0, 1]), WORDS)
    model = made.model.eval()
    model.save_pretrained(tmp_path)
    again = FastSlowModel.from_pretrained(tmp_path).eval()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    ids, mask = tokens(made)
    with torch.inference_mode():
        scores = [one.pair_scores(ids, mask, torch.arange(4), one.visual_cache(picture(4))) for one in (model, again)]
    assert torch.equal(*scores)


def test_positions_start_on_the_scale_of_words_in_text_pictures_and_captions(built):
    tables = ("slow.words.weight", "slow.places.weight", "slow.finer.0.space.weight", "slow.vision.space")
    for name in (*tables, "fast.text.embeddings.position_embeddings.weight", "fast.vision.space"):
        assert float(built.model.get_parameter(name).detach().std()) == pytest.approx(0.5, abs=0.15), name


def test_the_fast_side_can_be_pooled_from_the_backbone_and_of_earlier_text_layers():
    made = build(tiny(visual_pool="backbone", text_layers=[0], text_pool="mean", head_hidden=8), WORDS)
    model = made.model.eval()
    ids, mask = tokens(made)
    with torch.inference_mode():
        states = model.text_states(ids, mask)
        assert states.shape[-1] == 2 * 16
        read = model.fast.text_head((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        seen = model.fast.visual_head(model.fast.vision.look(picture(2, 3)).mean((1, 2)))
        normalize = torch.nn.functional.normalize
        torch.testing.assert_close(model.text_vectors(ids, mask)["embedding"], normalize(read, dim=-1))
        torch.testing.assert_close(model.visual_vectors(picture(2, 3))["embedding"], normalize(seen, dim=-1))
    assert model.fast.visual_pool is None
