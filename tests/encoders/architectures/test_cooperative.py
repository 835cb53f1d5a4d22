"""One transformer as twin and as cross encoder: what is shared, who is whose negative, which loss teaches what."""

import numpy as np
import pytest
import torch
from transformers import BertConfig

from encoders.architectures.cooperative import CooperativeModel, CooperativeObjective
from encoders.architectures.encoder import TrainedEncoder
from encoders.base import DualEncoder, PairScorer
from encoders.training.batches import Inputs, tokenise
from encoders.training.build import Built, build
from schemas.configs import parse
from schemas.errors import ConfigError
from schemas.training import TrainConfig

WORDS = ["a", "red", "blue", "circle", "square", "left", "of"]
CPU = torch.device("cpu")


def tiny(losses: dict | None = None, **model) -> TrainConfig:
    shape = {
        "image_size": 16,
        "grid": 2,
        "visual_width": 16,
        "small_text": {"width": 16, "layers": 2, "heads": 2},
        "stream_layers": 2,
        "stream_heads": 2,
        "max_words": 12,
    }
    value = {
        "name": "tiny",
        "steps": 2,
        "batch_size": 4,
        "model": {"architecture": "cooperative", **shape, **model},
        "losses": losses or {},
        "data": {"kind": "scenes"},
    }
    return parse(TrainConfig, value, source="test")


def objective_of(made: Built, config: TrainConfig) -> CooperativeObjective:
    return CooperativeObjective(made.model, config.losses, mask_id=made.tokenizer.mask_token_id, category=None)


def inputs_of(made: Built, count: int = 4, groups: tuple[int, ...] = (1,)) -> Inputs:
    texts = ["a red circle left of a blue square", "a blue circle", "a red square left of a circle", "a square"]
    ids, mask = tokenise(made.tokenizer, texts[:count], max_words=12, device=CPU)
    special = torch.tensor(made.tokenizer.all_special_ids)
    draw = torch.Generator().manual_seed(1)
    visuals = tuple(torch.randn(count // len(groups), frames, 3, 16, 16, generator=draw) for frames in groups)
    return Inputs(visuals, ids, mask, mask & ~torch.isin(ids, special), torch.arange(count))


def learnt_by(made: Built, config: TrainConfig, task: str, groups: tuple[int, ...] = (1, 4)) -> set[str]:
    """Parameters that a step of a task has a gradient for."""
    made.model.train()
    made.model.zero_grad()
    losses = objective_of(made, config)(
        inputs_of(made, groups=groups), task=task, progress=0.0, generator=torch.Generator().manual_seed(0)
    )
    losses["total"].backward()
    return {name for name, parameter in made.model.named_parameters() if parameter.grad is not None}


@pytest.fixture(params=["backbone", "blocks"], scope="module")
def built(request) -> Built:
    made = build(tiny(stream=request.param), WORDS)
    made.model.eval()
    return made


@pytest.fixture(scope="module")
def encoder(built, adapter) -> TrainedEncoder:
    return adapter(built)


def pixels(count: int, frames: int = 1) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (count, frames, 16, 16, 3), np.uint8)
    return torch.from_numpy(values)


def test_a_text_vector_is_the_mean_over_its_words_and_not_over_padding(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle", "a blue square left of a red"], max_words=12, device=CPU)
    model = built.model
    with torch.inference_mode():
        together = model.text_vectors(ids, mask)["embedding"]
        changed = model.text_vectors(ids.masked_fill(~mask, 6), mask)["embedding"]
        states, _ = model.stream(model.stream.words(ids[:1, :5]))  # [CLS] a red circle [SEP]
    expected = torch.nn.functional.normalize(states.mean(1), dim=-1)
    torch.testing.assert_close(together[:1], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, changed, rtol=0, atol=1e-6)


def test_a_picture_vector_is_the_mean_over_one_cls_and_its_regions(built):
    visual = torch.randn(2, 3, 3, 16, 16)
    model = built.model
    with torch.inference_mode():
        found = model.visual_vectors(visual)["embedding"]
        cls = model.stream.words(torch.full((2, 1), built.tokenizer.cls_token_id))
        states, _ = model.stream(torch.cat([cls, model.stream.regions(visual)], 1))
    assert states.shape[1] == 1 + 3 * 4
    torch.testing.assert_close(found, torch.nn.functional.normalize(states.mean(1), dim=-1), rtol=0, atol=1e-5)


def test_words_and_regions_meet_and_the_score_is_read_at_cls(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle left of a blue square"] * 2, max_words=12, device=CPU)
    ids[1, -2] = built.tokenizer.convert_tokens_to_ids("circle")  # the last word
    rows, model = torch.arange(2), built.model
    with torch.inference_mode():
        cache = model.visual_cache(torch.randn(1, 1, 3, 16, 16)).expand(2, -1, -1)
        words, other = model.pair_scores(ids, mask, rows, cache).tolist()
        moved = model.pair_scores(ids, mask, rows, cache.roll(1, dims=2))[0].item()
        states, _ = model.stream(model.stream.words(ids[:1]), mask[:1], cache[:1])
        hidden = model.match_pool(states[:, 0]).tanh()
        logits = model.match_head(hidden)[0]
    assert abs(words - other) > 1e-4
    assert abs(words - moved) > 1e-4
    assert words == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_padding_of_texts_and_of_pictures_changes_no_score(built):
    texts = ["a red circle", "a blue square left of a red"]
    ids, mask = tokenise(built.tokenizer, texts, max_words=12, device=CPU)
    model = built.model
    with torch.inference_mode():
        picture = model.visual_cache(torch.randn(1, 1, 3, 16, 16))
        padded = torch.cat([picture, torch.full_like(picture, 9.0)], 1).expand(2, -1, -1)
        cache_mask = torch.tensor([[True] * 4 + [False] * 4]).expand(2, -1)
        together = model.pair_scores(ids, mask, torch.arange(2), padded, cache_mask)
        alone = model.pair_scores(ids[:1, :5], mask[:1, :5], torch.zeros(1, dtype=torch.int64), picture)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


def test_the_authors_score_is_the_matching_logit_alone_and_ranks_otherwise():
    logits = torch.tensor([[0.0, 1.0], [1.5, 1.2]])
    scores = {}
    for kind in ("difference", "match"):
        model = build(tiny(match_score=kind), WORDS).model.eval()
        with torch.no_grad():
            model.match_head.weight.zero_()
            found = []
            for bias in logits:
                model.match_head.bias.copy_(bias)
                ids, mask = torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.bool)
                found.append(model.pair_scores(ids, mask, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 4, 16)))
        scores[kind] = torch.cat(found).tolist()
    assert scores == {"difference": pytest.approx([1.0, -0.3]), "match": pytest.approx([1.0, 1.2])}


def test_the_encoder_is_both_sides_and_its_vectors_are_as_wide_as_the_stream(encoder, built):
    assert isinstance(encoder, DualEncoder)
    assert isinstance(encoder, PairScorer)
    assert encoder.dims == {"embedding": 16}
    clip = pixels(2, frames=4)
    cache = encoder.visual_cache(clip)
    assert cache.shape == (2, 16, 16)
    scores = encoder.score(["a red circle", "a red circle"], cache)
    assert encoder.score(["a red circle"], cache[:1])[0] == pytest.approx(scores[0], abs=1e-5)
    for changed in (clip.flip(1), clip.flip(3)):  # other times, other places
        assert not np.allclose(encoder.encode_visual(clip)["embedding"], encoder.encode_visual(changed)["embedding"])
        assert abs(encoder.score(["a red circle"], encoder.visual_cache(changed[:1]))[0] - scores[0]) > 1e-5


def test_a_projection_narrows_the_vectors():
    made = build(tiny(projection=True, embedding_dim=8), WORDS)
    assert made.model.dims == {"embedding": 8}
    assert made.model.eval().visual_vectors(torch.randn(2, 1, 3, 16, 16))["embedding"].shape == (2, 8)


def test_one_model_has_half_the_transformers_of_two():
    join, sep = (build(tiny(share=share), WORDS).model for share in ("all", "none"))
    assert join.cross is join.stream
    assert sep.cross is not sep.stream
    streams = {kind: sum(p.numel() for p in model.parameters()) for kind, model in (("join", join), ("sep", sep))}
    heads = streams["join"] - sum(p.numel() for p in join.stream.parameters())
    assert streams["sep"] - heads == 2 * (streams["join"] - heads)


@pytest.mark.parametrize("stream", ["backbone", "blocks"])
def test_each_task_of_join_teaches_the_shared_stream_and_its_own_heads(stream):
    config = tiny({"masked_words": 1.0, "negative_choice": "sampled"}, stream=stream, projection=True)
    made = build(config, WORDS)
    every = {name for name, _ in made.model.named_parameters()}
    heads = {name for name in every if name.startswith(("match_", "word_"))}
    twin, cross = learnt_by(made, config, "twin"), learnt_by(made, config, "cross")
    assert twin == every - heads
    assert cross == {name for name in every if not name.startswith("projection")}
    assert learnt_by(made, config, "both") == every
    assert not {name for name in learnt_by(made, config, "words") if name.startswith(("match_", "projection"))}


def test_the_two_models_of_sep_learn_apart():
    config = tiny({"negative_choice": "sampled"}, share="none")
    made = build(config, WORDS)
    twin, cross = learnt_by(made, config, "twin"), learnt_by(made, config, "cross")
    assert twin == {name for name, _ in made.model.named_parameters() if name.startswith("stream.")}
    assert not twin & cross
    assert {name for name, _ in made.model.named_parameters() if name.startswith(("cross_stream.", "match_"))} == cross


def test_alternation_is_a_step_for_each_loss_and_the_sum_is_one_for_both():
    config = tiny({"matching": 0.5})
    assert CooperativeModel.STAGES["alternate"].tasks == ("twin", "cross")
    made = build(config, WORDS)
    made.model.eval()  # no dropout
    objective, inputs = objective_of(made, config), inputs_of(made, groups=(1, 4))

    def losses(task: str) -> dict[str, torch.Tensor]:
        return objective(inputs, task=task, progress=0.0, generator=torch.Generator().manual_seed(0))

    twin, cross, both = losses("twin"), losses("cross"), losses("both")
    assert set(twin) == {"twin", "total"}
    assert set(cross) == {"matching", "total"}
    torch.testing.assert_close(both["total"], twin["twin"] + 0.5 * cross["matching"])


@pytest.mark.parametrize("kind", ["hardest_triplet", "mean_triplet", "info_nce"])
def test_two_captions_of_a_picture_are_no_negatives_of_each_other(kind):
    config = tiny({"twin_loss": kind, "negative_choice": "top"})
    made = build(config, WORDS)
    inputs = inputs_of(made)
    same = Inputs(inputs.visuals, inputs.ids, inputs.mask, inputs.maskable, torch.zeros(4, dtype=torch.int64))
    losses = objective_of(made, config)(same, task="both", progress=0.0, generator=torch.Generator().manual_seed(0))
    assert all(torch.isfinite(loss) for loss in losses.values())
    expected = 2 * np.log(4) if kind == "info_nce" else 0.0  # nothing to tell apart, or all four alike
    tolerance = 4.0 if kind == "info_nce" else 0.0
    assert losses["twin"].item() == pytest.approx(expected, abs=tolerance)


def test_the_triplet_counts_both_directions_and_its_hardest_negative():
    config = tiny()
    made = build(config, WORDS)
    texts = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    pictures = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    found = objective_of(made, config)._twin(inputs_of(made), texts, pictures)
    distance = 1 - (texts @ pictures.T).numpy()
    off = distance + 2 * np.eye(4)  # the authors' mask
    own = distance.diagonal()
    expected = np.maximum(own - off.min(0) + 0.1, 0) + np.maximum(own - off.min(1) + 0.1, 0)
    assert found.item() == pytest.approx(expected.mean(), abs=1e-6)


@pytest.mark.parametrize(("choice", "least", "most"), [("random", 0.1, 0.6), ("top", 1.0, 1.0)])
def test_hard_negatives_are_those_the_twin_takes_for_the_own(choice, least, most, monkeypatch):
    config = tiny({"negative_choice": choice})
    made = build(config, WORDS)
    objective = objective_of(made, config)
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [-1, 0], [-1, 0.1]]), dim=1)
    rows = []
    monkeypatch.setattr(objective, "_vectors", lambda _: (vectors, vectors))
    beside = made.model.stream.beside
    monkeypatch.setattr(
        made.model.stream, "beside", lambda w, m, g, picture: rows.append((w, picture)) or beside(w, m, g, picture)
    )
    inputs = inputs_of(made)
    words = made.model.stream.words(inputs.ids)
    twins = []
    for seed in range(10):
        objective(inputs, task="cross", progress=0.0, generator=torch.Generator().manual_seed(seed))
        texts = [int((words - one).abs().sum((1, 2)).argmin()) for one in rows[-1][0]]
        pairs = list(zip(texts, rows[-1][1].tolist(), strict=True))
        assert pairs[:4] == [(i, i) for i in range(4)]
        assert len(pairs) == 8  # one mismatched pair for each that matches
        twins += [picture == text ^ 1 for text, picture in pairs[4:]]
        assert all(text != picture for text, picture in pairs[4:])
    assert least <= np.mean(twins) <= most


@pytest.mark.parametrize(("name", "share"), [("vit", "all"), ("vit", "none"), ("mobilenet", "all")])
def test_any_hugging_face_tower_starts_every_stream_and_the_checkpoint_needs_no_other(name, share, tower, tmp_path):
    found = tower(name)
    made = build(tiny(vision=str(found.folder), image_size=found.size, share=share), WORDS)
    streams = [made.model.stream] + ([made.model.cross_stream] if share == "none" else [])
    for stream in streams:
        for key, weight in found.module.state_dict().items():
            assert torch.equal(weight, stream.vision.state_dict()[key]), key
    assert set(made.factors) == set(made.model.BACKBONES["vision"])
    made.model.eval()
    picture = torch.randn(2, 1, 3, found.size, found.size)
    with torch.inference_mode():
        features = made.model.backbone_features(picture[:, 0])[:, None]
        torch.testing.assert_close(
            made.model.visual_vectors(features)["embedding"], made.model.visual_vectors(picture)["embedding"]
        )
        torch.testing.assert_close(made.model.visual_cache(features), made.model.visual_cache(picture))
    made.model.save_pretrained(tmp_path / "whole")
    for file in found.folder.iterdir():
        file.unlink()
    again = CooperativeModel.from_pretrained(tmp_path / "whole")
    assert again.state_dict().keys() == made.model.state_dict().keys()
    for name, weight in made.model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def bert_folder(folder) -> str:
    from transformers import BertModel

    from encoders.training.build import word_tokenizer

    tokenizer = word_tokenizer(WORDS, max_words=12)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("share", ["all", "none"])
def test_both_models_of_sep_start_from_the_pretrained_text(share, tmp_path):
    made = build(tiny(text=bert_folder(tmp_path), share=share), WORDS)
    texts = [made.model.get_submodule(name).state_dict() for name in made.model.BACKBONES["text"]]
    assert len(texts) == (1 if share == "all" else 2)
    for name, weight in texts[0].items():
        assert torch.equal(weight, texts[-1][name]), name
    config = tiny(share=share)
    learnt = learnt_by(made, config, "both")
    assert "stream.text.encoder.layer.1.output.dense.weight" in learnt


def test_a_pretrained_text_whose_layers_would_go_unused_is_refused():
    with pytest.raises(ConfigError, match="'blocks' has no use for the layers"):
        tiny(text="bert-base-uncased", stream="blocks")


def test_positions_start_on_the_scale_of_words():
    weights = dict(build(tiny(stream="blocks"), WORDS).model.named_parameters())
    word, position = (
        weights[f"stream.text.embeddings.{kind}_embeddings.weight"].std() for kind in ("word", "position")
    )
    assert 0.7 < (position / word).item() < 1.4
    assert weights["stream.space"].std().item() == pytest.approx(0.5, abs=0.15)
