"""A GPU that is there and not used is said, with the reason; nvidia-smi is a program on the PATH, as anywhere."""

import pytest

from pipelines.doctor import accelerator

PAGE = """\
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.129.03             Driver Version: 535.129.03   CUDA Version: 12.2     |
|-----------------------------------------+----------------------+----------------------+
"""
CPU = {"version": "2.13.0+cpu", "cuda": None, "devices": []}
CUDA = {"version": "2.13.0", "cuda": "13.0", "devices": []}


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """(answer to the query, exit code) -> an nvidia-smi that gives it; the page is always there."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(answer: str, code: int = 0, page: str = PAGE) -> None:
        (tmp_path / "query").write_text(answer)
        (tmp_path / "page").write_text(page)
        script = f'#!/bin/sh\n[ "$1" ] && file=query || file=page\n/bin/cat "{tmp_path}/$file"\nexit {code}\n'
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return install


def test_without_a_gpu_the_cpu_is_used_and_all_is_well(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accelerator.look(CUDA).state == accelerator.look(CPU).state == "ok"


def test_one_that_torch_sees_is_named_with_its_driver(smi):
    smi("NVIDIA H100 80GB HBM3, 580.65.06\n")
    found = accelerator.look(CUDA | {"devices": ["NVIDIA H100 80GB HBM3"]})
    assert found.state == "ok"
    assert found.found == "NVIDIA H100 80GB HBM3; torch 2.13.0, CUDA 13.0, driver 580.65.06"


@pytest.mark.parametrize(
    ("torch", "page", "said"),
    [
        (CPU, PAGE, "Tesla T4, Tesla T4, driver 535.129.03, but torch 2.13.0+cpu is built for the CPU alone"),
        (CUDA, PAGE, "driver 535.129.03 runs CUDA up to 12.2, torch 2.13.0 is built for 13.0"),
        (CUDA, PAGE.replace("12.2", "13.1"), "but torch finds none"),
        (CUDA, "", "but torch finds none"),
    ],
    ids=["torch for the CPU", "old driver", "hidden", "no page"],
)
def test_one_that_torch_does_not_see_is_a_warning_with_the_reason(smi, torch, page, said):
    smi("Tesla T4, 535.129.03\nTesla T4, 535.129.03\n", page=page)
    found = accelerator.look(torch)
    assert (found.state, found.remedy != "") == ("warning", True)
    assert said in found.found


def test_a_driver_that_fails_is_quoted(smi):
    smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n\nMake sure\n", code=9)
    assert "fails: NVIDIA-SMI has failed because" in accelerator.look(CUDA).found
    smi("", code=12)
    assert "fails: exit code 12" in accelerator.look(CUDA).found
