"""Tokenizing for a model: limits, padding, threads."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from encoders.hf.texts import Texts
from schemas.errors import ModelError

CPU = torch.device("cpu")


def test_a_text_is_cut_to_the_limit_and_keeps_its_end(tiny_clip):
    texts = Texts(tiny_clip, limit=8, padding="longest")
    found = texts(["a red dog on the grass beside a boat and a tree", "a dog"], device=CPU)
    assert found["input_ids"].shape == (2, 8)
    end = texts.tokenizer.eos_token_id
    assert found["input_ids"][0, -1] == end
    assert found["attention_mask"].sum(dim=1).tolist() == [8, 4]


def test_padding_reaches_the_longest_text_or_the_limit(tiny_siglip):
    longest = Texts(tiny_siglip, limit=12, padding="longest")(["a dog"], device=CPU)
    full = Texts(tiny_siglip, limit=12, padding="max_length")(["a dog"], device=CPU)
    assert longest["input_ids"].shape == (1, 3)
    assert full["input_ids"].shape == (1, 12)
    assert "attention_mask" not in full  # SigLIP is used without one


def test_the_tokenizers_own_limit_counts_too(tiny_clip):
    assert Texts(tiny_clip, limit=77, padding="longest").limit == 20


def test_broken_unicode_is_replaced(tiny_clip):
    texts = Texts(tiny_clip, limit=20, padding="longest")
    assert texts(["a \ud800 dog"], device=CPU)["input_ids"].equal(texts(["a ? dog"], device=CPU)["input_ids"])


def test_the_first_calls_of_several_threads_do_not_meet(tiny_clip):
    batch = ["a red dog left of a small boat"] * 200
    for _ in range(5):
        texts, together = Texts(tiny_clip, limit=20, padding="longest"), Barrier(6)

        def tokenize(_, texts=texts, together=together):
            together.wait()
            return texts(batch, device=CPU)["input_ids"]

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(tokenize, range(6)))
        assert all(ids.equal(found[0]) for ids in found)


def test_siglips_own_tokenizer_is_never_replaced_silently(copied):
    folder = copied("siglip")
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("Siglip2Tokenizer", "SiglipTokenizer"))
    try:
        import sentencepiece  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match="pip install sentencepiece"):
            Texts(folder, limit=20, padding="max_length")
    else:
        pytest.skip("sentencepiece is installed")
