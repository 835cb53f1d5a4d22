"""One sequence of words and regions: who sees whom, where things are, and that either modality works alone."""

import pytest
import torch

from encoders.single_stream import SingleStream, SingleStreamConfig, boxes
from schemas.errors import ModelError

BERT = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def make(stream: str, **changes) -> SingleStream:
    torch.manual_seed(0)
    shape = {
        "image_size": 16,
        "grid": 2,
        "frame_tokens": 4,
        "backbone_width": 16,
        "stream_layers": 2,
        "stream_heads": 2,
    }
    config = SingleStreamConfig(text_config=BERT, stream=stream, cls_token_id=2, **{**shape, **changes})
    return SingleStream(config).eval()


@pytest.fixture(params=["backbone", "eager", "blocks"])
def stream(request) -> SingleStream:
    """Layers of the text encoder under both of its attentions, and our own."""
    made = make("blocks" if request.param == "blocks" else "backbone")
    if request.param == "eager":
        made.text.set_attn_implementation("eager")
    # Larger than transformers' start, so that what is seen shows.
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.tensor([[2, 7, 8, 9, 3, 0], [2, 5, 6, 3, 0, 0]])


@pytest.fixture
def visual() -> torch.Tensor:
    return torch.randn(2, 1, 4, 16, generator=torch.Generator().manual_seed(1))


def test_all_words_and_all_regions_reach_the_first_word(stream, ids, visual):
    with torch.inference_mode():
        words, regions = stream.words(ids[:1, :5]), stream.regions(visual[:1])
        joined = torch.cat([words, regions], 1)
        before = stream(words, None, regions)[0][:, 0]
        for place in range(1, joined.shape[1]):
            changed = joined.clone()
            changed[:, place] = torch.randn(16, generator=torch.Generator().manual_seed(2))
            after = stream(changed[:, :5], None, changed[:, 5:])[0][:, 0]
            assert (after - before).abs().max() > 1e-4, place


def test_words_reach_regions_and_regions_reach_words(stream, ids, visual):
    with torch.inference_mode():
        words, regions = stream.words(ids[:1, :5]), stream.regions(visual[:1])
        before = stream(words, None, regions)[0]
        other_words = stream(words.roll(1, dims=-1), None, regions)[0]
        other_regions = stream(words, None, regions.roll(1, dims=-1))[0]
    assert (before - other_words)[:, 5:].abs().amax(-1).min() > 1e-4
    assert (before - other_regions)[:, :5].abs().amax(-1).min() > 1e-4


def test_padding_of_either_side_is_not_looked_at(stream, ids, visual):
    mask, region_mask = ids > 0, torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    with torch.inference_mode():
        words, regions = stream.words(ids), stream.regions(visual)
        before, joined = stream(words, mask, regions, region_mask)
        after, _ = stream(
            words.masked_fill(~mask[..., None], 9.0),
            mask,
            regions.masked_fill(~region_mask[..., None], -9.0),
            region_mask,
        )
        alone, whole = stream(words[1:, :4], None, regions[1:, :2])
    assert torch.equal(joined, torch.cat([mask, region_mask], 1))
    assert whole.all()
    torch.testing.assert_close(before[joined], after[joined], rtol=0, atol=1e-5)
    torch.testing.assert_close(before[1][joined[1]], alone[0], rtol=0, atol=1e-5)


def test_one_modality_is_enough(stream, ids, visual):
    mask = ids > 0
    with torch.inference_mode():
        states, seen = stream(stream.words(ids), mask)
        pictures, everything = stream.alone(stream.regions(visual))
    assert states.shape == (2, 6, 16)
    assert torch.equal(seen, mask)
    assert pictures.shape == (2, 5, 16)
    assert everything.all()
    with pytest.raises(ModelError, match="neither"):
        stream()


def test_a_picture_alone_starts_with_cls(stream, visual):
    with torch.inference_mode():
        regions = stream.regions(visual)
        written_out, _ = stream(stream.words(torch.full((2, 1), 2)), None, regions)
        alone, _ = stream.alone(regions)
        padded, mask = stream.alone(
            torch.cat([regions, regions], 1), torch.tensor([True] * 4 + [False] * 4).expand(2, -1)
        )
    torch.testing.assert_close(alone, written_out, rtol=0, atol=0)
    torch.testing.assert_close(padded[mask].view(2, 5, 16), alone, rtol=0, atol=1e-5)


def test_words_beside_pictures_of_several_lengths_equal_pairs_one_by_one(stream, ids):
    rows, mask = torch.tensor([2, 0, 3, 2]), ids[[0, 1, 1, 0]] > 0
    with torch.inference_mode():
        words = stream.words(ids[[0, 1, 1, 0]])
        groups = [stream.regions(torch.randn(2, frames, 4, 16)) for frames in (1, 3)]
        found = stream.beside(words, mask, groups, rows)
        pictures = [groups[1][:1], groups[0][:1], groups[1][1:], groups[1][:1]]
        alone = [stream(words[i : i + 1], mask[i : i + 1], picture)[0][:, :6] for i, picture in enumerate(pictures)]
    torch.testing.assert_close(found[mask], torch.cat(alone)[mask], rtol=0, atol=1e-5)


def test_positions_of_words_begin_at_nought_in_every_text(stream, ids):
    with torch.inference_mode():
        both = stream.words(ids)
        again = stream.words(ids[1:, :4])
    torch.testing.assert_close(both[1:, :4], again, rtol=0, atol=0)


def test_segments_differ_and_unknown_ones_are_refused(stream, ids):
    with torch.inference_mode():
        assert (stream.words(ids, 0) - stream.words(ids, 1)).abs().max() > 1e-3
    with pytest.raises(ModelError, match="below 2, got 2"):
        stream.words(ids, 2)


def test_words_and_regions_have_one_scale_and_places_count_in_it():
    made = make("blocks")
    visual = torch.randn(64, 1, 4, 16)
    with torch.inference_mode():
        words = made.words(torch.arange(4, 20)[:, None])
        regions = made.regions(visual)
        moved = made.regions(visual.roll(1, dims=2)).roll(-1, dims=1)  # the same features elsewhere
    assert 0.7 < float(regions.std() / words.std()) < 1.4
    assert float((moved - regions).std()) > 0.3


@pytest.mark.parametrize("spatial_positions", [False, True])
def test_places_and_times_are_seen(spatial_positions):
    made = make("blocks", spatial_positions=spatial_positions)
    clip = torch.randn(1, 4, 4, 16)
    with torch.inference_mode():
        once = made.regions(clip)
        flipped = made.regions(clip.flip(1)).view(1, 4, 4, 16).flip(1).flatten(1, 2)
        moved = made.regions(clip.flip(2)).view(1, 4, 4, 16).flip(2).flatten(1, 2)
        picture = made.regions(clip[:, :1])
    assert once.shape == (1, 16, 16)
    assert (once - flipped).abs().max() > 0.05
    assert (once - moved).abs().max() > 0.05
    assert picture.shape == (1, 4, 16)
    assert made.regions(torch.randn(2, 7, 4, 16)).shape == (2, 28, 16)


def test_pixels_and_their_features_give_the_same_regions():
    made = make("blocks")
    pixels = torch.randn(2, 3, 3, 16, 16)
    with torch.inference_mode():
        features = made.features(pixels.flatten(0, 1)).unflatten(0, (2, 3))
        torch.testing.assert_close(made.regions(pixels), made.regions(features), rtol=0, atol=1e-6)


def test_boxes_go_row_by_row_and_special_tokens_see_the_whole():
    found = boxes(5)
    assert found[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert found[1:].tolist() == [
        [0, 0, 0.5, 0.5, 0.5, 0.5],
        [0.5, 0, 1, 0.5, 0.5, 0.5],
        [0, 0.5, 0.5, 1, 0.5, 0.5],
        [0.5, 0.5, 1, 1, 0.5, 0.5],
    ]
    assert boxes(201).shape == (201, 6)
    assert boxes(201)[5].tolist()[:2] == [0, 0]
    with pytest.raises(ModelError, match="square grid, got 56"):
        boxes(56)


def test_our_own_layers_leave_those_of_the_text_encoder_out():
    names = [name for name, _ in make("blocks").named_parameters()]
    assert not [name for name in names if "text.encoder" in name]
    assert [name for name in names if name.startswith("blocks.1.")]
    assert [name for name, _ in make("backbone").named_parameters() if "text.encoder.layer.1" in name]


@pytest.mark.parametrize("kind", ["backbone", "blocks"])
def test_a_gradient_reaches_every_parameter(kind, ids):
    made = make(kind).train()
    states, mask = made(made.words(ids), ids > 0, made.regions(torch.randn(2, 3, 3, 16, 16)))
    states[mask].square().sum().backward()
    assert not [name for name, parameter in made.named_parameters() if parameter.grad is None]


def test_a_text_encoder_of_another_kind_is_refused():
    other = {"model_type": "distilbert", "vocab_size": 20, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    with pytest.raises(ModelError, match="distilbert, which has no encoder"):
        SingleStream(SingleStreamConfig(text_config=other, cls_token_id=2))
    with pytest.raises(ModelError, match=r"\[CLS\]"):
        SingleStream(SingleStreamConfig(text_config=BERT))
    with pytest.raises(ModelError, match="text_config"):
        SingleStream(SingleStreamConfig(cls_token_id=2))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("vision_top", 2),
        ("visual_pool", "backbone"),
        ("text_layers", (0, 2)),
        ("text_norm", "batch"),
        ("head_hidden", 8),
    ],
)
def test_a_setting_of_parts_that_it_has_not_is_refused(name, given):
    with pytest.raises(ModelError, match=f"{name}: has no such part"):
        make("blocks", **{name: given})
