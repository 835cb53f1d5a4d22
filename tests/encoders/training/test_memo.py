"""Remembered states equal those read anew, whatever the padding; strangers are not made up."""

import pytest
import torch

from encoders.training.batches import tokenise
from encoders.training.build import word_tokenizer
from encoders.training.memo import TextMemo
from schemas.errors import ModelError

CPU = torch.device("cpu")
TEXTS = ["a red circle", "a blue square left of a red circle", "a circle", "a red circle"]


@pytest.mark.parametrize("kept", [False, True])
def test_remembered_states_equal_those_read_anew_and_strangers_are_not_found(tmp_path, kept):
    tokenizer = word_tokenizer(["a", "red", "blue", "circle", "square", "left", "of"], max_words=12)
    table = torch.randn(len(tokenizer), 5, generator=torch.Generator().manual_seed(0)).half().float()
    read = []

    def states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        read.append(len(ids))
        return table[ids] * mask[:, :, None]

    path = tmp_path / "texts.npy"
    memo = TextMemo(states, tokenizer, TEXTS, max_words=12, device=CPU, batch_size=2, path=path if kept else None)
    assert sum(read) == 3  # one is there twice
    if kept:
        memo = TextMemo(states, tokenizer, TEXTS, max_words=12, device=CPU, batch_size=2, path=path)
        assert sum(read) == 3  # taken from the file
        with pytest.raises(ModelError, match="expected the states of 4 tokens, got 19"):
            TextMemo(states, tokenizer, TEXTS[2:3], max_words=12, device=CPU, path=path)
        assert [one.name for one in tmp_path.glob("*.npy")] == ["texts.npy"]
    for chosen in ([1, 0], [0], [3, 2, 1]):
        ids, mask = tokenise(tokenizer, [TEXTS[i] for i in chosen], max_words=12, device=CPU)
        found = memo.find(ids, mask)
        assert found is not None
        torch.testing.assert_close(found, table[ids] * mask[:, :, None], rtol=0, atol=0)
    assert memo.find(*tokenise(tokenizer, ["a red circle", "a red square"], max_words=12, device=CPU)) is None
