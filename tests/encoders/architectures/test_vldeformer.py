"""One transformer read three ways: pairs, texts alone, pictures alone; the copy between stages; what may learn when."""

import numpy as np
import pytest
import torch

from encoders.architectures.vldeformer import VLDeformerModel, VLDeformerObjective
from encoders.base import DualEncoder, PairScorer
from encoders.training.batches import Inputs, tokenise
from encoders.training.build import build
from encoders.training.stages import let_learn
from schemas.configs import parse
from schemas.errors import ModelError
from schemas.training import TrainConfig

WORDS = ["a", "red", "blue", "circle", "square", "left", "of"]
TEXTS = ["a red circle left of a blue square", "a blue circle", "a red square left of a circle", "a square"]
CPU = torch.device("cpu")
K = 3  # tags


def tiny(losses: dict | None = None, **model) -> TrainConfig:
    shape = {
        "image_size": 16,
        "grid": 2,
        "small_text": {"width": 16, "layers": 2, "heads": 2, "segments": 2},
        "stream_layers": 2,
        "stream_heads": 2,
        "tag_words": K,
        "max_words": 12,
    }
    value = {
        "name": "tiny",
        "steps": 2,
        "batch_size": 4,
        "model": {"architecture": "vldeformer", **shape, **model},
        "losses": losses or {},
        "data": {"kind": "scenes"},
    }
    return parse(TrainConfig, value, source="test")


def made(losses: dict | None = None, **model):
    config = tiny(losses, **model)
    built = build(config, WORDS)
    objective = VLDeformerObjective(
        built.model, config.losses, mask_id=built.tokenizer.mask_token_id, category=torch.full((12,), -1)
    )
    return built, objective


@pytest.fixture(scope="module", params=["backbone", "blocks"])
def built(request):
    found = made(stream=request.param)[0]
    found.model.eval()
    return found


def words_of(built, texts=TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    return tokenise(built.tokenizer, texts, max_words=12, device=CPU)


def inputs_of(built, groups: tuple[int, ...] = (1,), items=range(4)) -> Inputs:
    ids, mask = words_of(built)
    special = torch.tensor(built.tokenizer.all_special_ids)
    generator = torch.Generator().manual_seed(3)
    visuals = tuple(torch.randn(4 // len(groups), frames, 3, 16, 16, generator=generator) for frames in groups)
    return Inputs(visuals, ids, mask, mask & ~torch.isin(ids, special), torch.tensor(list(items)))


def losses_of(objective, inputs: Inputs, task: str) -> dict[str, torch.Tensor]:
    return objective(inputs, task=task, progress=0.0, generator=torch.Generator().manual_seed(0))


# What sees what.


def test_one_modality_never_sees_the_other_in_the_twin_and_does_in_the_interaction(built):
    model, picture = built.model, torch.randn(1, 1, 3, 16, 16)
    ids, mask = words_of(built, ["a red circle left of a blue square"] * 2)
    ids[1, -2] = built.tokenizer.convert_tokens_to_ids("circle")
    with torch.inference_mode():
        cache = model.visual_cache(picture).expand(2, -1, -1)
        scores = model.pair_scores(ids, mask, torch.arange(2), cache)
        other = model.pair_scores(ids, mask, torch.arange(2), model.visual_cache(picture + 1).expand(2, -1, -1))
    assert abs(float(scores[0] - scores[1])) > 1e-5  # the last word reaches the matching head
    assert (scores - other).abs().min() > 1e-5  # and so does the picture


@pytest.mark.parametrize("pooling", ["mean_masked", "mean_all"])
def test_padding_changes_no_vector(pooling):
    built = made(pooling=pooling)[0]
    built.model.eval()
    ids, mask = words_of(built, ["a red circle", "a red circle left of a blue square"])
    changed = ids.masked_fill(~mask, 6)
    with torch.inference_mode():
        together = built.model.text_vectors(ids, mask)["embedding"]
        alone = built.model.text_vectors(ids[:1, : int(mask[0].sum())], mask[:1, : int(mask[0].sum())])["embedding"]
        if pooling == "mean_masked":
            other_pad = built.model.text_vectors(changed, mask)["embedding"]
            torch.testing.assert_close(other_pad, together, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-5)


def test_the_mean_over_padding_is_another_one():
    vectors = []
    for pooling in ("mean_masked", "mean_all"):
        built = made(pooling=pooling)[0]
        built.model.eval()
        with torch.inference_mode():
            vectors.append(built.model.text_vectors(*words_of(built))["embedding"])
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_padding_changes_no_score(built):
    ids, mask = words_of(built, ["a red circle", "a red circle left of a blue square"])
    cache, rows = torch.randn(2, 7, 16), torch.arange(2)
    cache_mask = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    with torch.inference_mode():
        scores = built.model.pair_scores(ids, mask, rows, cache, cache_mask)
        changed = built.model.pair_scores(ids.masked_fill(~mask, 6), mask, rows, cache, cache_mask)
        short = built.model.pair_scores(ids[1:], mask[1:], rows[:1], cache[1:, :5])
    torch.testing.assert_close(scores, changed, rtol=0, atol=1e-6)
    torch.testing.assert_close(scores[1:], short, rtol=0, atol=1e-5)


def test_dropout_between_mean_and_tanh_is_off_outside_training(built):
    picture = torch.randn(2, 1, 3, 16, 16)
    with torch.inference_mode():
        still = [built.model.visual_vectors(picture)["embedding"] for _ in range(2)]
        built.model.pool_dropout.train()
        moving = [built.model.visual_vectors(picture)["embedding"] for _ in range(2)]
        built.model.pool_dropout.eval()
    assert torch.equal(*still)
    assert not torch.equal(*moving)


def test_pooling_is_the_tanh_of_the_mean():
    built = made(stream="blocks")[0]
    built.model.eval()
    states, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = np.stack([np.tanh(states[0].numpy().mean(0)), np.tanh(states[1, :3].numpy().mean(0))])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(built.model.pool(states, mask).numpy(), expected, atol=1e-6)


# Tags.


def test_the_image_side_begins_with_tags_whose_positions_begin_at_zero(built):
    stream, regions = built.model.interaction.stream, torch.randn(1, 4, 16)
    logits = torch.zeros(1, 12)
    for word, value in (("square", 3.0), ("red", 2.0), ("of", 1.0)):
        logits[0, built.tokenizer.convert_tokens_to_ids(word)] = value
    ids, _ = words_of(built, ["square red of"])  # [CLS] square red [SEP]
    with torch.inference_mode():
        found = built.model.picture(stream, regions, logits)
        expected = stream.text.embeddings(
            input_ids=ids, token_type_ids=torch.ones_like(ids), position_ids=torch.arange(ids.shape[1])[None]
        )
    torch.testing.assert_close(found[:, : K + 2], expected)
    assert torch.equal(found[:, K + 2 :], regions)


@pytest.mark.parametrize("tags", ["predicted", "none"])
def test_tags_are_on_the_image_side_of_both_networks(tags):
    built = made(tags=tags)[0]
    built.model.eval()
    picture = torch.randn(1, 1, 3, 16, 16)

    def seen() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            return built.model.visual_cache(picture), built.model.visual_vectors(picture)["embedding"]

    cache, vector = seen()
    assert cache.shape == (1, (K + 2 if tags == "predicted" else 1) + 4, 16)
    if tags == "predicted":
        with torch.no_grad():
            built.model.interaction.tagger.head.bias[built.tokenizer.convert_tokens_to_ids("square")] += 50
            built.model.interaction.tagger.head.bias[built.tokenizer.convert_tokens_to_ids("left")] += 40
            built.model.interaction.tagger.head.bias[built.tokenizer.convert_tokens_to_ids("of")] += 30
        changed, other = seen()
        assert torch.equal(cache[:, K + 2 :], changed[:, K + 2 :])
        assert (cache - changed).abs().max() > 1e-2
        assert (vector - other).abs().max() > 1e-4


def test_a_word_that_is_everywhere_is_no_tag():
    tagger = made()[0].model.interaction.tagger
    everywhere = torch.zeros(64, 12, dtype=torch.bool)
    everywhere[:, 7] = True
    for _ in range(400):
        tagger.count_words(everywhere)
    logits = torch.full((1, 12), -9.0)
    logits[0, 7], logits[0, 8], logits[0, 9], logits[0, 10] = 6.0, 1.0, 0.5, 0.0
    assert tagger.pick(logits).tolist() == [[8, 9, 10]]


def test_tags_need_a_second_segment_and_a_separator():
    with pytest.raises(ModelError, match="segment below 1"):
        made(small_text={"width": 16, "layers": 1, "heads": 2})[0].model.visual_cache(torch.randn(1, 1, 3, 16, 16))
    config = made()[0].model.config
    config.sep_token_id = None
    with pytest.raises(ModelError, match="sep_token_id"):
        VLDeformerModel(config)


# Stages.


def learning(task: str, losses: dict | None = None, groups: tuple[int, ...] = (1, 4), **model) -> set[str]:
    """Names of parameters that a step of a stage gives a gradient other than zero."""
    built, objective = made({"masked_words": 1.0, **(losses or {})}, stream_dropout=0.0, **model)
    stage = VLDeformerModel.STAGES[task]
    built.model.enter_stage(task)
    built.model.frozen = stage.frozen
    let_learn(built.model, frozenset(name for name, _ in built.model.named_parameters()), stage.frozen)
    built.model.train()
    losses_of(objective, inputs_of(built, groups), task)["total"].backward()
    return {name for name, p in built.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def names(model: VLDeformerModel, *prefixes: str) -> set[str]:
    # Positions beyond the longest text, and the bias of keys, which softmax takes out, have no say.
    return {n for n, _ in model.named_parameters() if n.startswith(prefixes) and not n.endswith("key.bias")}


@pytest.mark.parametrize("stream", ["backbone", "blocks"])
@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("interaction", ("interaction.",)),
        ("decomposition", ("twin.",)),
        ("scratch", ("twin.", "interaction.tagger", "interaction.stream.vision", "interaction.stream.enter")),
    ],
)
def test_a_gradient_reaches_all_that_should_learn_in_a_stage_and_nothing_else(task, parts, stream):
    model = made(stream=stream)[0].model
    found = {name for name in learning(task, stream=stream) if not name.endswith("key.bias")}
    allowed = ("interaction.",) if task == "interaction" else ("twin.", "interaction.")
    assert names(model, *parts) <= found
    assert found <= names(model, *(parts if task == "decomposition" else allowed))


def test_decomposition_copies_what_has_learnt_pairs_and_then_leaves_it_alone():
    built, objective = made()
    model = built.model
    with torch.no_grad():
        for parameter in model.interaction.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    before = {name: w.clone() for name, w in model.interaction.state_dict().items()}
    model.enter_stage("interaction")
    assert not torch.equal(model.twin.enter.weight, model.interaction.stream.enter.weight)
    model.enter_stage("scratch")
    assert not torch.equal(model.twin.enter.weight, model.interaction.stream.enter.weight)
    model.enter_stage("decomposition")
    for name, weight in model.interaction.stream.state_dict().items():
        assert torch.equal(model.twin.state_dict()[name], weight), name
    model.frozen = model.STAGES["decomposition"].frozen
    let_learn(model, frozenset(name for name, _ in model.named_parameters()), model.frozen)
    model.train()
    assert not model.interaction.training
    assert model.twin.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    losses_of(objective, inputs_of(built), "decomposition")["total"].backward()
    optimizer.step()
    for name, weight in model.interaction.state_dict().items():
        assert torch.equal(before[name], weight), name  # also the counts of tags
    assert not torch.equal(model.twin.enter.weight, model.interaction.stream.enter.weight)


def test_after_the_copy_both_networks_are_one(built):
    model = built.model
    model.enter_stage("decomposition")
    ids, mask = words_of(built)
    with torch.inference_mode():
        a, b = (stream(stream.words(ids), mask)[0] for stream in (model.twin, model.interaction.stream))
    assert torch.equal(a, b)


# Losses.


def test_the_contrast_is_the_sum_of_both_directions_at_a_fixed_temperature():
    built, objective = made(temperature=0.05)
    built.model.eval()
    inputs = inputs_of(built)
    with torch.no_grad():
        loss = losses_of(objective, inputs, "decomposition")
        texts = built.model.text_vectors(inputs.ids, inputs.mask)["embedding"].double().numpy()
        pictures = built.model.visual_vectors(inputs.visuals[0])["embedding"].double().numpy()
    logits = texts @ pictures.T / 0.05
    rows, columns = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logits, logits.T))
    expected = -np.diag(rows).mean() - np.diag(columns).mean()
    assert float(loss["contrast"]) == pytest.approx(expected, abs=1e-4)
    assert not [name for name, _ in built.model.named_parameters() if "temperature" in name]


def test_two_captions_of_one_picture_are_no_negatives_of_each_other():
    built, objective = made()
    inputs = inputs_of(built, items=[5, 5, 5, 5])
    loss = losses_of(objective, inputs, "decomposition")["contrast"]
    assert loss.item() >= 2 * np.log(4) - 1e-4  # all are right: at best the target is even
    triplet = made({"contrast_kind": "triplet"})
    assert losses_of(triplet[1], inputs, "decomposition")["contrast"].item() == 0
    assert losses_of(triplet[1], inputs_of(built), "decomposition")["contrast"].item() > 0
    pairs = losses_of(objective, inputs, "interaction")["matching"]
    assert torch.isfinite(pairs)


def test_the_nearest_in_words_is_the_lexical_negative_and_a_random_one_is_not_always():
    texts = ["a red circle left of a blue square", "a blue circle left of a red square", "a square", "a left square"]
    built, lexical = made({"negative_choice": "lexical", "overlap_temperature": 0.005})
    random = made({"negative_choice": "random"})[1]
    ids, mask = words_of(built, texts)
    special = torch.tensor(built.tokenizer.all_special_ids)
    inputs = Inputs((), ids, mask, mask & ~torch.isin(ids, special), torch.arange(4))
    draws = []
    for objective in (lexical, random):
        generator = torch.Generator().manual_seed(0)
        draws.append(torch.cat([objective._negatives(inputs, generator)[0] for _ in range(30)], 1))
    assert draws[0].tolist() == [[1] * 30, [0] * 30, [3] * 30, [2] * 30]
    assert all(len(set(row)) == 3 for row in draws[1].tolist())


def test_images_and_clips_read_apart_are_read_as_padded_together():
    built, objective = made()
    model = built.model.eval()
    inputs = inputs_of(built, (1, 4))
    with torch.inference_mode():
        caches = [model.visual_cache(group) for group in inputs.visuals]
        rows, texts = torch.tensor([3, 0, 2, 1, 0]), torch.tensor([0, 1, 2, 3, 0])
        states = objective._read(inputs.ids[texts], inputs.mask[texts], caches, rows)
        for place, (row, text) in enumerate(zip(rows.tolist(), texts.tolist(), strict=True)):
            cache = caches[row // 2][row % 2][None]
            words = model.interaction.stream.words(inputs.ids[text : text + 1])
            alone, _ = model.interaction.stream(words, inputs.mask[text : text + 1], cache)
            torch.testing.assert_close(states[place], alone[0, : inputs.ids.shape[1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("masking", ["words", "categories"])
def test_hidden_words_are_told_with_the_picture(masking):
    built, objective = made({"masked_words": 1.0, "masking": masking, "mask_fraction": 1.0})
    objective.category[built.tokenizer.convert_tokens_to_ids(["circle", "square"])] = 0
    built.model.eval()
    inputs = inputs_of(built)
    other = Inputs((inputs.visuals[0] + 1,), inputs.ids, inputs.mask, inputs.maskable, inputs.item_ids)
    a, b = (losses_of(objective, one, "interaction")["masked_words"].item() for one in (inputs, other))
    assert a != pytest.approx(b, abs=1e-6)


# As an encoder.


def test_a_saved_checkpoint_is_both_sides_and_equals_the_network(built, adapter):
    encoder = adapter(built)
    assert isinstance(encoder, DualEncoder)
    assert isinstance(encoder, PairScorer)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8))
    vectors = encoder.encode_visual(pixels)["embedding"]
    assert vectors.shape == (3, 16) == (3, encoder.dims["embedding"])
    assert not np.allclose(vectors, encoder.encode_visual(pixels.flip(1))["embedding"])  # the order of frames
    assert not np.allclose(vectors, encoder.encode_visual(pixels.flip(3))["embedding"])  # and of places
    cache = encoder.visual_cache(pixels)
    assert cache.shape == (3, K + 2 + 4 * 4, 16)
    ids, mask = words_of(built, TEXTS[:3])
    with torch.inference_mode():
        expected = built.model.pair_scores(ids, mask, torch.arange(3), cache)
    np.testing.assert_allclose(encoder.score(TEXTS[:3], cache), expected.numpy(), atol=1e-5)


def test_a_projection_narrows_the_vectors():
    built = made(projection=True, embedding_dim=8)[0]
    assert built.model.dims == {"embedding": 8}
    assert built.model.text_vectors(*words_of(built))["embedding"].shape == (4, 8)


@pytest.mark.parametrize("name", ["vit", "mobilenet"])
def test_any_hugging_face_tower_fits_in_both_networks_and_its_cached_features_are_its_pixels(name, tower, tmp_path):
    found = tower(name)
    model = made(vision=str(found.folder), image_size=found.size)[0].model.eval()
    for stream in (model.interaction.stream, model.twin):
        for key, weight in found.module.state_dict().items():
            assert torch.equal(weight, stream.vision.state_dict()[key]), key
    picture = torch.randn(2, 1, 3, found.size, found.size)
    with torch.inference_mode():
        features = model.backbone_features(picture[:, 0])[:, None]
        for see in (model.visual_cache, lambda visual: model.visual_vectors(visual)["embedding"]):
            torch.testing.assert_close(see(features), see(picture), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "whole")
    again = VLDeformerModel.from_pretrained(tmp_path / "whole")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.parametrize("shared", [True, False])
def test_a_backbone_that_both_stages_have_looks_once_at_a_picture(shared, tower):
    found = tower("mobilenet")
    model = made(vision=str(found.folder), image_size=found.size)[0].model.eval()
    if not shared:
        with torch.no_grad():
            next(model.twin.vision.parameters()).mul_(1.5)
    looks = []
    for stream in (model.interaction.stream, model.twin):
        stream.vision.register_forward_hook(lambda *_: looks.append(1))
    picture = torch.randn(3, 1, 3, found.size, found.size)
    with torch.inference_mode():
        vectors = model.visual_vectors(picture)["embedding"]
        assert len(looks) == (1 if shared else 2)
        apart = model.picture_vectors(picture, model.interaction.tagger(model.interaction.stream.regions(picture)))
    torch.testing.assert_close(vectors, apart, rtol=0, atol=0)
