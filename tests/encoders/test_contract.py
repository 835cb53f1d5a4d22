"""What every registered encoder promises, whatever its model; run over the whole registry."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.base import DualEncoder, PairScorer
from encoders.registry import MODEL_TYPES, load_dual, load_scorer
from schemas.configs import EncoderConfig
from schemas.errors import ModelError

DUALS = [name for name, entry in MODEL_TYPES.items() if entry.dual]
SCORERS = [name for name, entry in MODEL_TYPES.items() if entry.scorer]
CLOSE = 2e-5  # float32, another order of additions

duals = pytest.mark.parametrize("name", DUALS)
scorers = pytest.mark.parametrize("name", SCORERS)


def frames_of(encoder) -> int:
    return encoder.frames or 3


@duals
def test_vectors_are_float32_of_the_promised_width_and_of_norm_one(name, dual, texts, pictures):
    encoder = dual(name)
    assert isinstance(encoder, DualEncoder)
    assert "embedding" in encoder.dims
    clips = pictures(encoder.pixels, 3, frames_of(encoder))
    for vectors, rows in ((encoder.encode_text(texts), len(texts)), (encoder.encode_visual(clips), 3)):
        assert {column: array.shape for column, array in vectors.items()} == {
            column: (rows, width) for column, width in encoder.dims.items()
        }
        for array in vectors.values():
            assert array.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)


@duals
def test_different_inputs_get_different_vectors(name, dual, texts, pictures):
    encoder = dual(name)
    found = encoder.encode_text(texts)["embedding"]
    seen = encoder.encode_visual(pictures(encoder.pixels, 5))["embedding"]
    for vectors in (found, seen):
        assert np.abs(vectors[:, None] - vectors[None]).max(axis=2)[~np.eye(5, dtype=bool)].min() > 1e-3


@duals
def test_the_same_input_gives_the_same_bytes(name, dual, texts, pictures):
    encoder = dual(name)
    pixels = pictures(encoder.pixels, 4, frames_of(encoder))
    assert encoder.encode_text(texts)["embedding"].tobytes() == encoder.encode_text(texts)["embedding"].tobytes()
    assert encoder.encode_visual(pixels)["embedding"].tobytes() == encoder.encode_visual(pixels)["embedding"].tobytes()


@duals
def test_a_vector_does_not_depend_on_its_neighbours_in_the_batch(name, dual, texts, pictures):
    encoder = dual(name)
    alone = np.concatenate([encoder.encode_text([text])["embedding"] for text in texts])
    np.testing.assert_allclose(encoder.encode_text(texts)["embedding"], alone, atol=CLOSE)
    pixels = pictures(encoder.pixels, 5, frames_of(encoder))
    alone = np.concatenate([encoder.encode_visual(row[None])["embedding"] for row in pixels])
    np.testing.assert_allclose(encoder.encode_visual(pixels)["embedding"], alone, atol=CLOSE)


@duals
def test_a_picture_is_a_clip_of_one_frame(name, dual, pictures):
    encoder = dual(name)
    vectors = encoder.encode_visual(pictures(encoder.pixels, 2, 1))["embedding"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@duals
def test_a_text_over_the_limit_is_cut(name, dual):
    encoder = dual(name)
    long = "a dog runs on the grass " * 40
    np.testing.assert_allclose(
        encoder.encode_text([long])["embedding"], encoder.encode_text([long + "and a boat"])["embedding"], atol=CLOSE
    )


@duals
def test_an_empty_batch_gives_no_rows(name, dual, pictures):
    encoder = dual(name)
    assert encoder.encode_text([])["embedding"].shape == (0, encoder.dims["embedding"])
    assert encoder.encode_visual(pictures(encoder.pixels, 0))["embedding"].shape == (0, encoder.dims["embedding"])


@duals
@settings(max_examples=15, deadline=None)
@given(text=st.text(alphabet=st.characters(), max_size=60))
def test_any_string_has_a_vector(name, dual, text):
    vectors = dual(name).encode_text([text])["embedding"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@duals
def test_threads_sharing_a_model_get_what_one_thread_gets(name, dual, texts, pictures):
    encoder = dual(name)
    pixels = pictures(encoder.pixels, 2, frames_of(encoder))
    batches = [[text] * (1 + number % 3) for number, text in enumerate(texts * 6)]  # padding changes all the time
    expected = [
        (encoder.encode_text(batch)["embedding"], encoder.encode_visual(pixels)["embedding"]) for batch in batches
    ]
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = pool.map(
            lambda batch: (encoder.encode_text(batch)["embedding"], encoder.encode_visual(pixels)["embedding"]), batches
        )
        for (text, visual), (expected_text, expected_visual) in zip(found, expected, strict=True):
            np.testing.assert_allclose(text, expected_text, atol=CLOSE)
            np.testing.assert_allclose(visual, expected_visual, atol=CLOSE)


@duals
def test_pixels_of_another_size_are_refused(name, dual, pictures):
    encoder = dual(name)
    wrong = pictures(dataclasses.replace(encoder.pixels, height=encoder.pixels.height + 1), 1)
    with pytest.raises(ModelError, match="expected uint8 pixels"):
        encoder.encode_visual(wrong)
    with pytest.raises(ModelError, match="expected uint8 pixels"):
        encoder.encode_visual(pictures(encoder.pixels, 1).float())


@duals
def test_a_model_saved_and_loaded_again_gives_the_same_vectors(name, dual, copied, texts, pictures):
    encoder, folder = dual(name), copied(name)
    (folder / "model.safetensors").unlink()
    encoder.model.save_pretrained(folder)
    again = type(encoder)(folder, fingerprint="again", dtype=torch.float32, device=torch.device("cpu"))
    assert again.model is not encoder.model
    pixels = pictures(encoder.pixels, 2, frames_of(encoder))
    np.testing.assert_array_equal(again.encode_text(texts)["embedding"], encoder.encode_text(texts)["embedding"])
    np.testing.assert_array_equal(again.encode_visual(pixels)["embedding"], encoder.encode_visual(pixels)["embedding"])


@duals
def test_a_model_is_known_by_its_content_not_by_its_folder(name, dual, copied):
    assert load_dual(EncoderConfig(path=str(copied(name)), dtype="float32")).fingerprint == dual(name).fingerprint


@duals
def test_bfloat16_gives_float32_vectors_that_point_the_same_way(name, dual, config_of, texts, pictures):
    encoder = dual(name)
    rounded = load_dual(config_of(name).model_copy(update={"dtype": "bfloat16"}))
    assert rounded.fingerprint != encoder.fingerprint
    vectors = rounded.encode_text(texts)["embedding"]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * encoder.encode_text(texts)["embedding"]).sum(axis=1).min() > 0.99


@scorers
def test_scores_are_float32_one_a_pair_and_are_counted(name, scorer, texts, pictures):
    model = scorer(name)
    assert isinstance(model, PairScorer)
    before = model.pair_evaluations
    cache = model.visual_cache(pictures(model.pixels, 5))
    assert cache.ndim == 3
    assert cache.dtype == torch.float32
    scores = model.score(texts, cache)
    assert scores.shape == (5,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert model.pair_evaluations - before == 5


@scorers
def test_a_score_depends_on_its_text_and_its_picture_and_on_nothing_else(name, scorer, texts, pictures):
    model = scorer(name)
    cache = model.visual_cache(pictures(model.pixels, 5, frames_of(model)))
    together = model.score(texts, cache)
    assert model.score(texts, cache).tobytes() == together.tobytes()
    alone = np.concatenate([model.score([text], cache[row : row + 1]) for row, text in enumerate(texts)])
    np.testing.assert_allclose(together, alone, atol=5 * CLOSE)
    assert np.abs(model.score(texts, cache.roll(1, dims=0)) - together).min() > 1e-4
    assert np.abs(model.score(texts[1:] + texts[:1], cache) - together).min() > 1e-4


@scorers
def test_a_cached_row_can_be_stored_and_used_for_several_texts(name, scorer, texts, pictures):
    model = scorer(name)
    pixels = pictures(model.pixels, 4)
    stored = model.visual_cache(pixels).cpu().numpy()[2]
    rows = torch.from_numpy(stored).expand(len(texts), *stored.shape)
    fresh = model.visual_cache(pixels[2:3]).expand(len(texts), *stored.shape)
    np.testing.assert_allclose(model.score(texts, rows), model.score(texts, fresh), atol=5 * CLOSE)


@scorers
def test_texts_can_be_read_beforehand(name, scorer, texts, pictures):
    model = scorer(name)
    cache = model.visual_cache(pictures(model.pixels, 5))
    read = model.text_cache([*texts, "a boat"])
    np.testing.assert_allclose(model.score(texts, cache, read), model.score(texts, cache), atol=5 * CLOSE)
    before = model.pair_evaluations
    model.score([texts[0]] * 5, cache, read)
    assert model.pair_evaluations - before == 5
    if read is not None:
        with pytest.raises(ModelError, match="read before"):
            model.score(["a horse"], cache[:1], read)


@scorers
def test_no_pairs_give_no_scores(name, scorer, pictures):
    model = scorer(name)
    assert model.score([], model.visual_cache(pictures(model.pixels, 1))[:0]).shape == (0,)


@scorers
def test_bfloat16_scores_are_not_rounded_into_ties(name, config_of, pictures):
    model = load_scorer(config_of(name).model_copy(update={"dtype": "bfloat16"}))
    cache = model.visual_cache(pictures(model.pixels, 24))
    assert cache.dtype == torch.bfloat16
    scores = model.score(["a red circle"] * 24, cache)
    assert scores.dtype == np.float32
    assert len(set(scores.tolist())) == 24
