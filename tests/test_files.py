"""Files that are whole or not there, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hiera_det import files
from hiera_det.errors import InputError
from hiera_det.files import (
    WriteError,
    link_atomically,
    refuse_input,
    require_space,
    sweep_partials,
    write_atomically,
)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may have 64 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_write_puts_the_whole_file_in_place_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.bin", lambda file: file.write(b"old"))
    write_atomically(str(tmp_path / "a.bin"), lambda file: file.write(b"new"), durable=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"new"}


def test_a_durable_write_syncs_the_file_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically(tmp_path / "a", lambda file: file.write(b"1"))
    assert order == ["file", "rename", "folder"]


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize(
    "write", [lambda file: file.write(bytes(1 << 17)), lambda file: torch.save(torch.zeros(1 << 16), file)]
)
def test_a_file_that_does_not_fit_leaves_the_old_one_and_says_why_in_one_line(tmp_path: Path, write: object) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"a\.pth: cannot be written \(it is larger than a file may be here") as caught:
        write_atomically(path, write)  # type: ignore[arg-type]
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EFBIG
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.pth": b"old"}


def test_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match=r"\(the disk is full\)$"):
        write_atomically(tmp_path / "a", write)


def test_an_error_of_the_callers_own_goes_through(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise RuntimeError("no tensor")

    with pytest.raises(RuntimeError, match="no tensor"):
        write_atomically(tmp_path / "a", write)
    assert not list(tmp_path.iterdir())


def test_space_that_is_not_there_is_asked_for_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(3 << 20))
    require_space(tmp_path / "not" / "yet", 3 << 20)
    with pytest.raises(InputError, match=r"yet: cannot be written \(the disk is full: it needs 4 MiB and has 3 MiB"):
        require_space(tmp_path / "not" / "yet", 4 << 20)


def test_what_a_killed_process_left_is_swept_and_a_living_ones_stays(tmp_path: Path) -> None:
    program = """
        import os, sys, time
        from hiera_det.files import write_atomically
        def write(file):
            file.write(b"half"); file.flush(); print(file.name, flush=True); time.sleep(60)
        write_atomically(sys.argv[1], write)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "checkpoint.pth")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    partial = Path(writer.stdout.readline().strip())
    try:
        assert sweep_partials(tmp_path) == []
        assert partial.read_bytes() == b"half"
    finally:
        writer.kill()
        writer.wait()
    (tmp_path / "kept.partial").touch()
    assert sweep_partials(tmp_path) == [partial]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.partial"]


def test_another_machines_partial_file_goes_only_when_it_has_long_been_still(tmp_path: Path) -> None:
    partial = tmp_path / ".checkpoint.pth.other-host.12-0.partial"
    partial.touch()
    assert sweep_partials(tmp_path) == []
    os.utime(partial, (0, 0))
    assert sweep_partials(tmp_path) == [partial]


def test_an_earlier_process_of_our_number_is_no_living_writer(tmp_path: Path) -> None:
    names: list[str] = []
    write_atomically(tmp_path / "a", lambda file: names.append(file.name))
    Path(names[0]).touch()
    assert sweep_partials(tmp_path) == [Path(names[0])]


def test_a_second_name_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "second").write_text("old")
    link_atomically(tmp_path / "new", tmp_path / "second")
    assert (tmp_path / "second").read_text() == "new"
    write_atomically(tmp_path / "new", lambda file: file.write(b"newer"))
    assert (tmp_path / "second").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "second"]


def test_without_links_the_second_name_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "new").write_text("new")
    link_atomically(tmp_path / "new", tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_longest_name_of_a_file_can_be_written_and_its_partial_file_is_known_for_one(tmp_path: Path) -> None:
    name = "\N{CJK UNIFIED IDEOGRAPH-732B}" * 83 + ".jpg"  # 253 bytes

    seen: list[str] = []
    write_atomically(tmp_path / name, lambda file: seen.extend(path.name for path in tmp_path.iterdir()))
    assert (tmp_path / name).is_file()
    assert files._PARTIAL.fullmatch(seen[0])


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").symlink_to("a.json")
    refuse_input(tmp_path / "c.json", "--json", [tmp_path / "a.json"])
    with pytest.raises(InputError, match=r"--json .*b\.json: is read, and would be overwritten"):
        refuse_input(tmp_path / "b.json", "--json", [tmp_path / "a.json"])
