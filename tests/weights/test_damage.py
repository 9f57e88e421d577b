"""Damage inside a file is seen, and tensors that are no plain arrays are named before anything is done with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hiera_det.errors import InputError
from hiera_det.weights.saving import save_tensors
from hiera_det.weights.sources import read_weight_file, verify

TENSORS = {"a.weight": torch.randn(300, 200), "b": torch.randn(40000)}


def refusal(path: Path) -> str:
    """The one line with which both looking at a file's checksums and reading it end."""
    with pytest.raises(InputError) as caught:
        verify(path)
    with pytest.raises(InputError) as again:
        read_weight_file(path)
    assert str(caught.value) == str(again.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, form: str) -> None:
    """A file whose damage can be seen."""
    if form in ("ours", "ours.safetensors"):
        save_tensors(path, TENSORS)
        return
    if form == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=form != "legacy")
    if form in ("safetensors", "legacy"):
        path.with_name(f"{path.name}.sha256").write_text(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        )


@pytest.mark.parametrize("form", ["ours", "ours.safetensors", "zip", "legacy", "safetensors"])
def test_damage_inside_a_tensor_is_refused_in_one_line(form: str, tmp_path: Path) -> None:
    path = tmp_path / (f"model.{form.rpartition('.')[2]}" if "safetensors" in form else "model.pth")
    write(path, form)
    verify(path)
    torch.testing.assert_close(read_weight_file(path), TENSORS, rtol=0, atol=0)
    whole = path.read_bytes()
    middle = len(whole) // 2
    one_bit = bytes([whole[middle] ^ 1])
    for damaged in (
        whole[:middle] + bytes(1 << 16) + whole[middle + (1 << 16) :],
        whole[:middle] + one_bit + whole[middle + 1 :],
    ):
        path.write_bytes(damaged)
        line = refusal(path)
        assert str(path) in line
        assert "copy or download it again" in line


@pytest.mark.parametrize("form", ["ours", "ours.safetensors", "zip", "legacy", "safetensors"])
def test_a_file_without_a_checksum_is_said_to_have_none(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / (f"model.{form.rpartition('.')[2]}" if "safetensors" in form else "model.pth")
    write(path, form)
    beside = path.with_name(f"{path.name}.sha256")
    with caplog.at_level("INFO", "hiera_det.weights"):
        read_weight_file(path)
        assert not caplog.records
        beside.unlink(missing_ok=True)
        read_weight_file(path)
    said = [record.getMessage() for record in caplog.records]
    none = f"{path} has no checksum, so that damage inside its tensors would not be seen"
    assert said == ([none] if form in ("legacy", "safetensors") else [])


def test_a_checksum_that_is_damaged_itself_is_no_way_round_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes().replace(b'"crc32"', b'"crc33"'))
    assert "does not match its checksum" in refusal(path)


def test_safetensors_files_of_ours_are_ordinary_ones(tmp_path: Path) -> None:
    from safetensors import safe_open

    shared = torch.randn(2, 5)
    save_tensors(tmp_path / "model.safetensors", {"a": shared[0], "b": shared[1], "c": shared, "d": shared})
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert torch.equal(file.get_tensor("b"), shared[1])
        assert torch.equal(file.get_tensor("d"), shared)


def test_a_file_written_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "model.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    torch.testing.assert_close(read_weight_file(tmp_path / "model.pth"), TENSORS, rtol=0, atol=0)


def test_a_file_of_the_hubs_cache_is_compared_with_its_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "blob")
    blob = tmp_path / hashlib.sha256((tmp_path / "blob").read_bytes()).hexdigest()
    (tmp_path / "blob").rename(blob)
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    verify(link)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert "its SHA-256 is not" in refusal(link)


def test_what_is_no_sha256_beside_a_file_is_named(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.pth", TENSORS)
    (tmp_path / "model.pth.sha256").write_text("not found")
    assert "model.pth.sha256 does not begin with a SHA-256" in refusal(tmp_path / "model.pth")


def test_the_checksums_of_shards_are_looked_at(tmp_path: Path) -> None:
    save_tensors(tmp_path / "one.pth", TENSORS)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "one.pth")}))
    verify(index)
    whole = (tmp_path / "one.pth").read_bytes()
    (tmp_path / "one.pth").write_bytes(whole[:100000] + bytes([whole[100000] ^ 1]) + whole[100001:])
    assert "one.pth is damaged" in refusal(index)


def strange(kind: str) -> torch.Tensor:
    """A tensor that torch reads and that is no plain array."""
    match kind:
        case "of stride 0":
            return torch.zeros(1).expand(10**10)
        case "overlapping":
            return torch.zeros(120).as_strided((50, 60), (1, 1))
        case "meta":
            return torch.zeros(3, device="meta")
        case "sparse":
            return torch.eye(3).to_sparse()
        case "sparse rows":
            return torch.eye(3).to_sparse_csr()
        case _:
            return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("of stride 0", r"tensor 'optimizer\.state\.7\.exp_avg\.0' repeats 4 bytes of the file up to 40000000000 "),
        ("overlapping", r"tensor 'optimizer\.state\.7\.exp_avg\.0' repeats 480 bytes of the file up to 12000 "),
        ("meta", r"holds a tensor without values \(device meta\) \(near 'exp_avg'\)"),
        ("sparse", r"holds a sparse tensor \(near 'exp_avg'\)"),
        ("sparse rows", r"holds a sparse tensor \(near 'exp_avg'\)"),
        ("quantised", r"holds a quantised tensor \(near 'exp_avg'\)"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_tensor_that_is_no_plain_array_is_named(kind: str, says: str, form: str, tmp_path: Path) -> None:
    content = {"optimizer": {"state": {7: {"exp_avg": [strange(kind)]}}}}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(InputError, match=rf"model\.pth:? {says}.*plain tensor"):
        read_weight_file(tmp_path / "model.pth")


def test_a_file_that_is_refused_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    """Torch keeps sparse tensors for a look at its end, and finds those of the file before that failed."""
    path = tmp_path / "model.pth"
    torch.save({"a": torch.eye(3).to_sparse(), "b": Path("needs code")}, path)
    with pytest.raises(InputError):
        read_weight_file(path)
    torch.save(TENSORS, path)
    torch.testing.assert_close(read_weight_file(path), TENSORS, rtol=0, atol=0)


def test_shared_and_sliced_tensors_and_parameters_are_plain(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    content: dict[str, Any] = {"a": base[:, 1:3].t(), "b": base, "c": nn.Parameter(base), "d": torch.zeros(0, 5)}
    content["again"] = content
    torch.save(content, tmp_path / "model.pth")
    assert torch.equal(read_weight_file(tmp_path / "model.pth")["a"], base[:, 1:3].t())


def test_dicts_inside_each_other_have_a_bound(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    inner = content
    for _ in range(200):
        inner["a"] = {}
        inner = inner["a"]
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match="has more than 32 dicts or lists inside each other"):
        read_weight_file(tmp_path / "model.pth")


@pytest.mark.parametrize(("count", "says"), [(150_000, "names 150000 tensors"), (500_000, "bytes of names and shapes")])
def test_a_header_of_names_without_end_is_refused_at_once(count: int, says: str, tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"blocks.{number}.norm1.weight": entry for number in range(count)}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert says in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "header", [b"[1]", b"{", b"\xff\xfe", b"[" * 100000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1}']
)
def test_a_safetensors_header_that_is_none_is_named(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = b"{" + header if not header.startswith(b"{") else header
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="is truncated or no safetensors file") as caught:
        read_weight_file(path)
    assert str(caught.value).isprintable()
