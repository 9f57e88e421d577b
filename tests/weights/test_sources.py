"""Weight files are read safely, and a file that is none is named in one line."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import pickle
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from hiera_det.errors import InputError
from hiera_det.weights.sources import STANDARD_FILES, find_weight_file, read_weight_file, shard_names, verify


class Trap:
    """Unpickling this leaves a file."""

    def __init__(self, target: Path, by: str) -> None:
        self.target, self.by = target, by

    def __reduce__(self) -> tuple[object, ...]:
        python = f"open({str(self.target)!r}, 'w').close()"
        ways: dict[str, tuple[object, ...]] = {
            "system": (os.system, (f"touch {self.target}",)),
            "subprocess": (subprocess.call, (["touch", str(self.target)],)),
            "exec": (exec, (python,)),
            "eval": (eval, (python,)),
            "path": (Path.touch, (self.target,)),
            "torch": (torch.save, ({}, str(self.target))),
            "state": (argparse.Namespace, (), {"target": Trap(self.target, "system")} if self.by == "state" else None),
        }
        return ways[self.by]


FORMS = ("zip", "legacy", "compressed", "safetensors")
UNREADABLE = {
    "nothing": (b"", "is empty"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "is a web page.* download it again"),
    "xml": (b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
    "text": (b"not found\n", "is text"),
    "broken json": (b'{"weight_map": ', "is text"),
    "other json": (b'{"error": "not found"}', "is JSON, but no index of shards"),
    "json list": (b"[1, 2]", "is text"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a PNG image"),
    "gzip": (gzip.compress(b"weights"), "is a gzip archive"),
    "chance": (bytes(range(256)), "neither a PyTorch nor a safetensors file"),
}


def write(path: Path, tensors: dict[str, Any], form: str) -> None:
    """Save tensors in one of the forms that weight files have."""
    if form == "safetensors":
        save_file(tensors, path)
        return
    torch.save(tensors, path, _use_new_zipfile_serialization=form != "legacy")
    if form == "compressed":
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)


def refusal(path: Path) -> str:
    """The one line with which reading a file ends."""
    with pytest.raises(InputError) as caught:
        read_weight_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything, so be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("form", FORMS)
def test_tensors_come_back_whatever_the_file_is_called(tmp_path: Path, form: str, suffix: str) -> None:
    path, tensors = tmp_path / f"weights{suffix}", {"a.weight": torch.randn(200, 3), "b": torch.arange(5)}
    write(path, tensors, form)
    torch.testing.assert_close(read_weight_file(str(path)), tensors, rtol=0, atol=0)


TRAPS = ("system", "subprocess", "exec", "eval", "path", "torch", "state")
TRAPPED = ("torch.save", "legacy torch.save", "pickle", "tar")


def write_trap(path: Path, form: str, trap: Trap) -> None:
    """A file that runs the trap where it is unpickled."""
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": trap}))
    elif form == "tar":  # torch.save's own before 0.1.10
        with tarfile.open(path, "w") as archive:
            for name in ("pickle", "storages", "tensors", "sys_info"):
                content = pickle.dumps(trap)
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    else:
        torch.save({"model": trap}, path, _use_new_zipfile_serialization=form == "torch.save")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pt", ".pyth", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", TRAPPED)
def test_a_file_that_would_run_code_is_refused_unread(tmp_path: Path, form: str, suffix: str) -> None:
    path, trace = tmp_path / f"weights{suffix}", tmp_path / "ran"
    write_trap(path, form, Trap(trace, "system"))
    line = refusal(path)
    named = {"pickle": "bare Python pickle", "tar": "is a tar archive"}
    assert named.get(form, f"is refused: it needs {os.system.__module__}.system") in line
    assert not trace.exists()


@pytest.mark.parametrize("by", TRAPS)
@pytest.mark.parametrize("form", TRAPPED)
def test_no_way_of_running_code_runs(tmp_path: Path, form: str, by: str) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "ran"
    write_trap(path, form, Trap(trace, by))
    refusal(path)
    verify(path)
    assert not trace.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())  # the trap is one
        assert trace.exists()


@pytest.mark.parametrize("form", ["options", "module", "bare arrays"])
def test_the_command_in_a_refusal_saves_what_can_be_read(tmp_path: Path, form: str) -> None:
    weight = torch.randn(2, 3)
    path = tmp_path / "it's weights.pth"
    if form == "bare arrays":
        path.write_bytes(pickle.dumps({"model": {"weight": weight.numpy()}, "author": "Ann"}))
    elif form == "module":
        module = torch.nn.Linear(3, 2, bias=False)
        module.weight.data = weight
        torch.save({"model": module}, path)
    else:
        torch.save({"model": {"weight": weight}, "options": argparse.Namespace(lr=1)}, path)
    line = refusal(path)
    named = {"options": "argparse.Namespace", "module": "linear.Linear"}
    assert named.get(form, "bare Python pickle") in line
    command = shlex.split(line[line.index("python -c ") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    torch.testing.assert_close(read_weight_file(command[-1])["model"], {"weight": weight}, rtol=0, atol=0)


def test_what_a_refused_file_needs_is_named(tmp_path: Path) -> None:
    torch.save({"model": {}, "best": numpy.float64(3)}, tmp_path / "weights.pth")
    assert ".multiarray.scalar, and reading it could run code" in refusal(tmp_path / "weights.pth")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), str(tmp_path / "model.pt"))
    assert "TorchScript" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path: Path, what: str, suffix: str) -> None:
    content, says = UNREADABLE[what]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_weight_file(path)
    refusal(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_cut_off_anywhere_is_named(tmp_path: Path, form: str) -> None:
    path = tmp_path / "weights.pth"
    write(path, {"a.weight": torch.randn(20), "b": torch.randn(20)}, form)
    whole = path.read_bytes()
    for size in range(20, len(whole), 7):
        path.write_bytes(whole[:size])
        line = refusal(path)
        assert "is truncated" in line or "EOF" in line
        assert "copy or download it again" in line


@pytest.mark.parametrize("kind", ["npz", "npy", "tar", "other zip"])
def test_other_containers_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    if kind == "npz":
        with open(path, "wb") as file:
            numpy.savez(file, a=numpy.ones(2))
    elif kind == "npy":
        with open(path, "wb") as file:
            numpy.save(file, numpy.ones(2))
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights.pth", b"")
    says = {"npz": "zip archive that torch.save did not write", "npy": "a NumPy array", "tar": "a tar archive"}
    assert says.get(kind, says["npz"]) in refusal(path)


def test_no_file_at_all_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "weights.pth")


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    path.chmod(0)
    with unprivileged():
        assert "cannot be opened (Permission denied)" in refusal(path)


def test_a_folder_is_no_file_but_its_file_is_told(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model_final.pth")
    assert f"is a folder: give the file in it, {tmp_path / 'model_final.pth'}" in refusal(tmp_path)


def test_a_list_is_no_weight_file(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds a list, not a dict" in refusal(tmp_path / "list.pth")


def sharded(folder: Path, weight_map: dict[str, Any]) -> Path:
    """An index in a folder with two shards, one of each kind."""
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    torch.save({"b": torch.zeros(3), "c": torch.ones(1)}, folder / "two.bin")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": "one.safetensors", "b": "two.bin", "c": "two.bin"})
    expected = {"a": torch.ones(2), "b": torch.zeros(3), "c": torch.ones(1)}
    torch.testing.assert_close(read_weight_file(index), expected, rtol=0, atol=0)
    assert shard_names(index) == ["one.safetensors", "two.bin"]


@pytest.mark.parametrize(
    "shard", ["../one.bin", "/etc/passwd", "sub/one.bin", "..", "", "C:one.bin", "sub\\one.bin", 3]
)
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, shard: object) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "one.bin")
    (tmp_path / "in").mkdir()
    index = sharded(tmp_path / "in", {"a": shard})
    assert f"names the shard {shard!r}" in refusal(index)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    assert "shard three.bin, which is not there" in refusal(sharded(tmp_path, {"a": "three.bin"}))


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shard .*two\.bin lacks 'a', which model\.safetensors\.index\.json promises"):
        read_weight_file(sharded(tmp_path, {"a": "two.bin"}))


def test_an_index_is_no_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": "model.safetensors.index.json"})
    assert "is text" in refusal(index)


def test_a_folder_gives_the_best_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "last.pth").touch()
    assert find_weight_file(tmp_path) == tmp_path / "last.pth"
    (tmp_path / "model_0000009.pth").touch()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    assert find_weight_file(tmp_path) == tmp_path / "model_0000009.pth"
    for name in reversed(STANDARD_FILES):
        (tmp_path / name).touch()
        assert find_weight_file(tmp_path) == tmp_path / name


@pytest.mark.parametrize("name", ["gone.pth", "../secret.pth"])
def test_a_last_checkpoint_that_names_no_file_of_its_folder_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    (tmp_path / "secret.pth").touch()
    (folder / "last_checkpoint").write_text(name)
    with pytest.raises(InputError, match="last_checkpoint names '"):
        find_weight_file(folder)


@pytest.mark.parametrize(("count", "says"), [(0, "holds no weight file"), (7, r"holds 7 .*0\.pt, .*4\.pt, \.\.\.\)")])
def test_a_folder_with_none_or_several_asks_for_the_file(tmp_path: Path, count: int, says: str) -> None:
    for number in range(count):
        (tmp_path / f"{number}.pt").touch()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(InputError, match=says + ".*name the file itself"):
        find_weight_file(tmp_path)


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir(mode=0)
    with unprivileged(), pytest.raises(InputError, match=r"weights cannot be read \(Permission denied\)"):
        find_weight_file(folder)
    folder.chmod(0o700)
