"""Folders that can be written into, and files that are whole or not there: the only place that renames a file."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from hiera_det.errors import InputError

__all__ = [
    "StrPath",
    "WriteError",
    "link_atomically",
    "make_folder",
    "path_of",
    "refuse_input",
    "require_space",
    "sweep_partials",
    "write_atomically",
]

#: A path as users hand it in.
StrPath = str | os.PathLike[str]


def path_of(value: object, name: str) -> str:
    """A path as a text.

    Args:
        value: what a caller has given.
        name: the argument, for the message.

    Raises:
        InputError: it is no path.
    """
    if not isinstance(value, str | bytes | os.PathLike):
        raise InputError(f"{name}: {type(value).__name__}; give a path")
    return os.fsdecode(value)


_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())[:32]
#: ``.NAME.HOST.PID-COUNT.partial``: no two writers share one, and whoever finds it can tell whether its writer lives.
_PARTIAL = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)-\d+\.partial")
_counter = itertools.count()
#: Bytes of a partial file's name, but for its dot.
_LONGEST = 254
#: A writer touches its file all the time; one that has been still for so long has none.
_STALE_S = 6 * 3600
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it is larger than a file may be here, see ulimit -f",
}


class WriteError(InputError, OSError):
    """A file cannot be written; ``errno`` says why, ``strerror`` in words for a user."""

    def __init__(self, path: StrPath, number: int | None, reason: str) -> None:
        super().__init__(f"{path}: cannot be written ({reason})")
        self.errno, self.strerror = number, reason

    def __str__(self) -> str:
        return str(self.args[0])


def make_folder(folder: StrPath, what: str = "folder") -> None:
    """Make a folder where there is none, before hours are spent on what is to go into it.

    Args:
        folder: its path.
        what: the flag or key that named it, for the message.

    Raises:
        InputError: it cannot be made or written into.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{what} {folder}: cannot be written ({error.strerror}); choose another") from None


def require_space(folder: StrPath, size: int) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        folder: where it is to go; it need not be there yet.
        size: bytes to be written.

    Raises:
        WriteError: less is free.
    """
    there = next((path for path in (Path(folder), *Path(folder).absolute().parents) if path.is_dir()), Path())
    free = shutil.disk_usage(there).free
    if free < size:
        needs = f"it needs {size / 2**20:.0f} MiB and has {free / 2**20:.0f} MiB"
        raise WriteError(folder, errno.ENOSPC, f"{_FULL[errno.ENOSPC]}: {needs}")


def write_atomically(path: StrPath, write: Callable[[IO[bytes]], object], *, durable: bool = True) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in its place.

    Args:
        path: the file; its folder must be there.
        write: gets the open file, which it may also read.
        durable: wait until the disk has both file and name, so that they outlive a power cut; False for what can
            be had again.

    Raises:
        WriteError: it cannot be written; ``path`` is then as it was.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        with open(partial, "x+b") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
        if durable:
            _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None or isinstance(cause, WriteError):
            raise
        reason = _FULL.get(cause.errno or 0, cause.strerror or str(cause))
        raise WriteError(path, cause.errno, reason) from None
    finally:
        with contextlib.suppress(OSError):  # on a disk that has become read-only, too
            partial.unlink()


def link_atomically(path: StrPath, second: str | Path) -> None:
    """Have a file under a second name too, in the place of what was there; not on a file system without links."""
    link = _partial(Path(second))
    try:
        os.link(path, link)
        os.replace(link, second)
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            link.unlink()


def refuse_input(path: StrPath, word: str, inputs: Iterable[StrPath]) -> None:
    """Refuse to write a file in the place of one that is read.

    Args:
        path: of the file to be written.
        word: the flag that named it.
        inputs: what is read.

    Raises:
        InputError: it is one of them.
    """
    real = os.path.realpath(path)
    if any(os.path.realpath(name) == real for name in inputs):
        raise InputError(f"{word} {os.fspath(path)}: is read, and would be overwritten; name another file")


def _partial(path: Path) -> Path:
    """A name beside a file that no other writer has, and that a file system takes, 255 bytes at most."""
    end = f".{_HOST}.{os.getpid()}-{next(_counter)}.partial"
    name = os.fsencode(path.name)[: _LONGEST - len(end)].decode("utf-8", "ignore")
    return path.with_name(f".{name}{end}")


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error behind an exception: torch's writer turns a full disk into a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system lets folders be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_folder(building: Path, target: Path) -> None:
    """Put a finished folder in its place; what it replaces is deleted after that.

    Raises:
        OSError: it cannot be put there; ``target`` is then as it was.
    """
    if not target.exists():
        building.rename(target)
        return
    old = building.with_suffix(".old")
    target.rename(old)
    try:
        building.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep_partials(folder: StrPath) -> list[Path]:
    """Remove what killed processes left half-written in a folder; to be called before this process writes there.

    Returns:
        the files removed.
    """
    removed = []
    for path in Path(folder).glob(".*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match and _is_stale(path, match["host"], int(match["pid"])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_stale(partial: Path, host: str, pid: int) -> bool:
    """Whether nobody writes a file any more; other machines may share the folder, and their processes go unseen."""
    # A container starts its processes under the same numbers each time: what bears ours is an earlier one's.
    if host == _HOST and (pid == os.getpid() or not _is_alive(pid)):
        return True
    try:
        return time.time() - partial.stat().st_mtime > _STALE_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
