"""Two processes of half a batch have the loss and the gradients of one process with the whole."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from encoders.losses import cosines, info_nce
from encoders.negatives import positive_mask
from encoders.training.gather import gather

REPO = Path(__file__).resolve().parents[3]

PROCESS = """
import sys
import pytest
import torch
from torch import distributed
from encoders.losses import cosines, info_nce
from encoders.negatives import positive_mask
from encoders.training.gather import gather

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
data = torch.load(f"{folder}/data.pt")
weights = data["weights"].requires_grad_()
mine = slice(3 * rank, 3 * rank + 3)
texts, pictures, ids = (data[name][mine] for name in ("texts", "pictures", "ids"))
texts, pictures = (torch.nn.functional.normalize(one @ weights, dim=-1) for one in (texts, pictures))
loss = info_nce(cosines(texts, gather(pictures)), positive_mask(ids, gather(ids)), torch.tensor(0.1))
loss.backward()
distributed.all_reduce(weights.grad)
loss = loss.detach()
distributed.all_reduce(loss)
torch.save({"loss": loss / 2, "gradient": weights.grad / 2}, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_alone_it_is_the_rows_themselves():
    rows = torch.randn(3, 2)
    assert gather(rows) is rows


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    data = {
        "texts": torch.randn(6, 5),
        "pictures": torch.randn(6, 5),
        "ids": torch.tensor([0, 1, 2, 3, 1, 4]),  # one picture is in both halves
        "weights": torch.randn(5, 4),
    }
    torch.save(data, tmp_path / "data.pt")
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)], cwd=REPO, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for one in running:
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors.decode()
    weights = data["weights"].clone().requires_grad_()
    texts, pictures = (torch.nn.functional.normalize(data[name] @ weights, dim=-1) for name in ("texts", "pictures"))
    loss = info_nce(cosines(texts, pictures), positive_mask(data["ids"], data["ids"]), torch.tensor(0.1))
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["loss"], loss.detach())
        torch.testing.assert_close(found["gradient"], weights.grad)
