"""BLIP's match scores against calling transformers directly."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForImageTextRetrieval, BlipImageProcessorPil

from schemas.errors import ModelError


def test_scores_are_the_log_odds_transformers_gives(tiny_blip, scorer, texts):
    model = scorer("blip")
    pixels = np.random.default_rng(1).integers(0, 256, size=(5, 32, 32, 3), dtype=np.uint8)
    inputs = BlipImageProcessorPil.from_pretrained(tiny_blip)([Image.fromarray(p) for p in pixels], return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(tiny_blip)(
        texts, padding=True, truncation=True, return_token_type_ids=False, return_tensors="pt"
    )
    with torch.inference_mode():
        logits = BlipForImageTextRetrieval.from_pretrained(tiny_blip).eval()(**inputs, **tokens).itm_score
    found = model.score(texts, model.visual_cache(torch.from_numpy(pixels[:, None])))
    np.testing.assert_allclose(found, (logits[:, 1] - logits[:, 0]).numpy(), atol=1e-5)
    probability = logits.softmax(dim=-1)[:, 1].numpy()
    assert np.argsort(found).tolist() == np.argsort(probability).tolist()


def test_a_clips_tokens_are_its_frames_tokens_side_by_side(scorer, pictures):
    model = scorer("blip")
    clips = pictures(model.pixels, 2, 3)
    frames = [model.visual_cache(clips[:, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(model.visual_cache(clips), torch.cat(frames, dim=1))


def test_as_many_rows_as_texts_are_asked_for(scorer, pictures):
    model = scorer("blip")
    with pytest.raises(ModelError, match="one row of visual tokens a text, got 1 texts, 2 rows"):
        model.score(["a dog"], model.visual_cache(pictures(model.pixels, 2)))
