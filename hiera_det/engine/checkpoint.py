"""Checkpoints of a run: whole or not there, the newest good one found again, and one run per folder.

The tag ``last_checkpoint`` (detectron2's word) holds the plain name of the newest file. A file that cannot be read is
passed over for the one before it, so that damage costs a period and not the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hiera_det.engine.events import last_iteration
from hiera_det.engine.launch import is_restart
from hiera_det.engine.settings import PYTHON_WORDS
from hiera_det.errors import InputError
from hiera_det.files import link_atomically, sweep_partials, write_atomically
from hiera_det.weights.saving import save_tensors
from hiera_det.weights.sources import read_weight_file

__all__ = [
    "BEST",
    "CHECKPOINT",
    "FINAL",
    "PREVIOUS",
    "Checkpoints",
    "FolderLock",
    "Patience",
    "check_iteration",
    "check_unchanged",
    "goes_on",
]

logger = logging.getLogger("hiera_det.checkpoint")

CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"
FINAL, BEST = "model_final.pth", "model_best.pth"
TAG = "last_checkpoint"
#: Checkpoints of an iteration, as detectron2 names them; the averaged weights lie beside them.
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
#: Newest checkpoints that are kept although they are of no period: a damaged one has one before it.
IN_BETWEEN = 2
#: More steps than any training takes; a counter beyond is damage.
MOST_ITERATIONS = 10**8
#: Words of callers in Python for settings, as `_typed` has them, by those that a checkpoint has.
SAME = {word.replace("_", "-"): name.replace("_", "-") for name, word in PYTHON_WORDS.items()}
#: Savings in a row that may fail before the run gives up.
FAILURES = 3


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: the run's output.
        keep: how many numbered checkpoints stay, the newest; 0 for all.
        period: steps from one that is to stay to the next; of those in between, by the clock or for a stop, the newest
            two are kept. 0 where there are none.
    """

    def __init__(self, folder: str, keep: int = 0, period: int = 0) -> None:
        self.folder, self.keep, self.period = Path(folder), keep, period

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a checkpoint, name it in the tag, and let go of those beyond ``keep``.

        Raises:
            InputError: it cannot be written; the folder is as it was.
        """
        if name == CHECKPOINT and (self.folder / name).is_file():
            # The one that is about to be replaced has a second name: at no moment is there none.
            link_atomically(self.folder / name, self.folder / PREVIOUS)
        self.write(name, content)
        self.tag(name)
        self._prune()

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file that no run goes on from, as the best weights.

        Raises:
            InputError: it cannot be written.
        """
        save_tensors(self.folder / name, content)

    def tag(self, name: str) -> None:
        """Name the newest file."""
        write_atomically(self.folder / TAG, lambda file: file.write(name.encode()))

    def tagged(self) -> Path | None:
        """The file that the tag names; None where there is no tag, or it names none of the folder's files."""
        tag = self.folder / TAG
        if not tag.is_file():
            return None
        name = tag.read_text(encoding="utf-8", errors="replace").strip()
        plain = bool(name) and Path(name).name == name and "\\" not in name and not name.startswith(".")
        if plain and os.path.isfile(self.folder / name):
            return self.folder / name
        logger.warning("%s names %r, which is no file of this folder: looking for the newest checkpoint", tag, name)
        return None

    def candidates(self) -> list[Path]:
        """What a run can go on from, the likeliest first: the tagged file, then the others from new to old."""
        numbered = [path for path in self.folder.glob("*.pth") if NUMBERED.fullmatch(path.name)]
        own = [path for name in (CHECKPOINT, PREVIOUS) if (path := self.folder / name).is_file()]
        final, tagged = self.folder / FINAL, self.tagged()
        if own:  # of the plain trainings, whose final file has the weights alone
            tagged = None if tagged == final else tagged
        elif final.is_file():
            own.append(final)
        newest_first = sorted([*numbered, *own], key=lambda path: path.stat().st_mtime_ns, reverse=True)
        first = [tagged] if tagged else []
        return [*first, *(path for path in newest_first if path not in first)]

    def newest_good(self, read: Callable[[str], dict[str, Any]] = read_weight_file) -> tuple[str, dict[str, Any]]:
        """The newest checkpoint that can be read.

        Args:
            read: a path to what is in it; raises `InputError` for one that cannot be used.

        Returns:
            its path and content.

        Raises:
            InputError: there is none, or none can be used; the line is that of the newest.
        """
        refusals: list[InputError] = []
        for path in self.candidates():
            try:
                state = read(str(path))
            except InputError as error:
                refusals.append(error)
                logger.warning("%s", error)
                continue
            if refusals:
                lost = max(0, last_iteration(str(self.folder)) - int(state.get("iteration", 0)))
                logger.warning("going on from %s instead: %d iterations are lost", path, lost)
            return str(path), state
        if refusals:
            raise refusals[0]
        raise InputError(
            f"--resume: no checkpoint in {self.folder}; leave --resume out, or name the folder of the run to resume"
        )

    def sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for path in sweep_partials(self.folder):
            logger.info("removed %s, left by a run that was killed", path.name)

    def _prune(self) -> None:
        """Remove numbered checkpoints beyond ``keep``, and older ones between periods, with their averaged weights."""
        numbered = sorted(path.name for path in self.folder.glob("*.pth") if NUMBERED.fullmatch(path.name))
        old = set(numbered[: -self.keep] if self.keep else ())
        old |= {name for name in numbered[:-IN_BETWEEN] if self.period and _steps_in(name) % self.period}
        for name in old:
            for file in (self.folder / name, self.folder / name.replace(".pth", "_ema.pth")):
                file.unlink(missing_ok=True)


def _steps_in(name: str) -> int:
    """Steps that are done in a numbered checkpoint, by its name."""
    found = NUMBERED.fullmatch(name)
    return int(found[1]) + 1 if found else 0


class Patience:
    """Lets a saving fail, as on a full disk, and ends the run where it fails again and again."""

    def __init__(self) -> None:
        self.failures = 0

    def save(self, write: Callable[[], object], last: bool = False) -> bool:
        """Whether ``write`` went well.

        Args:
            write: writes a checkpoint.
            last: nobody will try again.

        Raises:
            InputError: it failed for the last time.
        """
        try:
            write()
        except InputError as error:
            self.failures += 1
            if last or self.failures >= FAILURES:
                raise InputError(f"{error}; {self.failures} checkpoints in a row could not be saved") from None
            logger.warning("%s; training goes on and tries again", error)
            return False
        self.failures = 0
        return True


class FolderLock:
    """Keeps a second run out of a folder while a first one writes into it; let go when the process ends, however.

    Args:
        folder: the run's output.
        word: the flag or key that named it.
    """

    NAME = ".lock"

    def __init__(self, folder: str, word: str = "--output") -> None:
        self.path, self.word = Path(folder) / self.NAME, word
        self._file: Any = None

    def __enter__(self) -> FolderLock:
        """Take the lock.

        Raises:
            InputError: another process holds it, or it cannot be written.
        """
        while self._file is None or not self._is_in_place():  # the run before may just have removed it
            self._file = self._opened()  # as long as the run
            if not self._lock():
                return self
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        return self

    def _opened(self) -> Any:
        try:
            return open(self.path, "a+", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from None

    def _is_in_place(self) -> bool:
        return self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))

    def _lock(self) -> bool:
        """Lock the file; False where there are no locks.

        Raises:
            InputError: another process has it.
        """
        try:
            import fcntl

            # A record lock: forked loader workers, which may outlive a killed run, do not inherit it.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            folder = self.path.parent
            raise InputError(f"{self.word} {folder}: a training runs there ({holder}); give another folder") from None
        except ImportError:  # Windows
            return False
        except OSError as error:  # a network file system
            logger.warning("%s: cannot be locked (%s); start no second run there", self.path, error.strerror)
            return False
        return True

    def __exit__(self, *error: object) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # what became unwritable has been said
                self.path.unlink()
            self._file.close()


def goes_on(folder: str, resume: bool, auto_resume: bool, word: str = "--output") -> bool:
    """Whether a run goes on from a checkpoint of its folder.

    Args:
        folder: the run's output.
        resume: a checkpoint must be there.
        auto_resume: go on where there is one; so does a run that torchrun starts anew when it has lost a process.
        word: the flag or key that named the folder.

    Raises:
        InputError: there is none to resume; or there is one, and nobody asked to go on.
    """
    there = bool(Checkpoints(folder).candidates())
    if there and not (resume or auto_resume or is_restart()):
        raise InputError(f"{word} {folder}: a training is there already; give --resume, or another folder")
    if resume and not there:
        raise InputError(f"--resume: there is no checkpoint in {folder}; leave --resume out, or name its {word}")
    return there


def check_iteration(path: str, iteration: Any) -> int:
    """A checkpoint's count of steps.

    Raises:
        InputError: it is none.
    """
    if type(iteration) is not int or not 0 <= iteration <= MOST_ITERATIONS:
        raise InputError(f"{path}: is at iteration {iteration!r}, which no training is at; the file is damaged")
    return iteration


def check_unchanged(
    path: str,
    saved: Mapping[str, Any],
    own: Mapping[str, Any],
    allowed: Sequence[str] = (),
    derived: Mapping[str, Sequence[str]] = MappingProxyType({}),
    fixed: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Refuse to go on with settings under which the rest would not be the same training.

    Args:
        path: of the checkpoint.
        saved: its settings, by the user's words for them.
        own: those of this run.
        allowed: words that may differ (``--allow-changed``).
        derived: settings that follow from others; where one of these has changed, it alone is asked about.
        fixed: settings that may not differ whatever is allowed, and what to do instead.

    Returns:
        the allowed words that do differ.

    Raises:
        InputError: another one differs; the line has both values.
    """
    plain_saved = {_plain(name): value for name, value in saved.items()}
    plain_allowed = {_plain(word) for word in allowed}
    if unknown := sorted(_typed(word) for word in allowed if _plain(word) not in {_plain(name) for name in own}):
        known = ", ".join(_typed(name) for name in own)
        raise InputError(
            f"--allow-changed {unknown[0]}: no setting that a checkpoint is compared in; these are: {known}"
        )
    changed = [name for name in own if plain_saved.get(_plain(name), own[name]) != own[name]]  # older ones lack some
    for name in changed:
        was, value = plain_saved[_plain(name)], own[name]
        follows = any(source in changed for source in derived.get(name, ()))
        if name in fixed or (_plain(name) not in plain_allowed and not follows):
            advice = fixed.get(name, f"give --allow-changed {_typed(name)}")
            raise InputError(
                f"--resume: {path} was made with {name} {was}, now it is {value}; resume with the same, or {advice}"
            )
        logger.warning("%s was %s and is now %s: from here on it is another training", name, was, value)
    return changed


def _typed(word: str) -> str:
    """A setting's name as it can be typed: ``--batch-size`` and ``batch_size`` are ``batch-size``."""
    if word == word.upper():  # a config key
        return word
    return word.removeprefix("--").removeprefix("the ").replace("_", "-").replace(" ", "-")


def _plain(word: str) -> str:
    """The one name of a setting, whichever door it was given at."""
    typed = _typed(word)
    return SAME.get(typed, typed)


def weights_in(folder: str) -> str:
    """The weights that a detector's training left: the best, else those of its end, else its last checkpoint.

    Raises:
        InputError: there are none.
    """
    for name in (BEST, FINAL):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    if found := Checkpoints(folder).candidates():
        return str(found[0])
    raise InputError(
        f"{folder}: there is neither {BEST} nor {FINAL} nor another checkpoint; name a file by MODEL.WEIGHTS"
    )
