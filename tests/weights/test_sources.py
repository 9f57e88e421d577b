"""Weight files are read safely, and a file that is none is named in one line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hiera_det.errors import InputError
from hiera_det.weights.sources import read_weight_file


class Trap:
    """Unpickling this runs a command that leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tensors_come_back(tmp_path: Path, suffix: str) -> None:
    path, tensors = tmp_path / f"weights{suffix}", {"a.weight": torch.randn(2, 3)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    torch.testing.assert_close(read_weight_file(path), tensors, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_a_file_that_would_run_code_is_refused_unread(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": Trap(trace)}))
    else:
        torch.save({"model": Trap(trace)}, path)
    with pytest.raises(InputError, match=r"weights\.pth") as caught:
        read_weight_file(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "does not exist"), (b"", "is empty"), (b"<html>404</html>", "again"), ("half", "again")],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, suffix: str, content: bytes | str | None, says: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if content == "half":
        tensors = {"a": torch.randn(100, 100)}
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_weight_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_is_no_weight_file(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, not a dict"):
        read_weight_file(tmp_path / "list.pth")
