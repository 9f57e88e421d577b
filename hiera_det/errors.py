"""User mistakes told in one line.

Everything that a user hands in (a key, a path, a size, a JSON) is checked where it enters. A mistake raises
`InputError`, whose message names the file, key or value and says what to do. The tools turn it into one line on
stderr and exit status 2; from Python it is an ordinary `ValueError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["InputError", "Left", "exit_status", "leave", "printable", "run_tool"]

#: Exit status of a tool that refuses its input, a wrong flag included.
EXIT_BAD_INPUT = 2
#: Signals by which schedulers, and terminals that are closed, end a tool; Windows lacks some.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
#: What a terminal, pipe or full disk that is printed to raises, without the name of a file.
NO_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def exit_status(number: int) -> int:
    """The exit status of a process that a signal stopped: 143 for SIGTERM, 130 for SIGINT, as shells have it.

    SIGUSR1 asks for a requeue, which schedulers take SIGTERM's status for; SIGHUP is a terminal that is closed.
    """
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class Left(SystemExit):
    """A signal has ended a process, by the way out on which what is half-written is removed.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(exit_status(number))
        self.number = number


def leave(number: int, frame: FrameType | None) -> None:
    """A handler for where nothing is to be finished first."""
    raise Left(number)


class InputError(ValueError):
    """The user's input cannot be used; the message is one line with the way out.

    Names of files and classes are other people's words: what would move the cursor, hide or turn letters around is
    shown by its code, see `printable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    r"""A text in one line that a terminal shows as it is: ``\x1b`` for ESC, ``\n``, ``\u202e``.

    Letters of all scripts stay; bytes of file names that are no text are shown by their codes too.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_tool(main: Callable[[], object], say: Callable[[str], object] | None = None) -> None:
    """Run a tool's ``main`` and exit: 0 on success, 2 with one line for an `InputError` or a package that is missing.

    Ctrl-C ends in a line too, with 130, and the other signals with 143; a training that listened to one has said so
    itself, and knows its status. So does an output that takes nothing more, as on a full disk. Any other exception is
    a defect of ours and keeps its traceback.

    Args:
        main: the tool.
        say: takes the line; else it goes to stderr.
    """
    tell = say or (lambda line: print(line, file=sys.stderr))
    try:
        with _leaving():
            _show_all_letters()
            main()
            sys.stdout.flush()
    except InputError as error:
        tell(f"error: {error}")
        sys.exit(EXIT_BAD_INPUT)
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == __package__:
            raise
        tell(f"error: {error.name} is not installed: hiera-det doctor has the command that gets it")
        sys.exit(EXIT_BAD_INPUT)
    except Left as left:
        if not say:
            tell(f"stopped by {signal.Signals(left.number).name}")
        raise
    except KeyboardInterrupt as stop:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # again, while the process ends: at once, no traceback
        status: int = getattr(stop, "status", 0)  # of `hiera_det.engine.stop.StopRequested`
        if not status:
            tell("stopped by SIGINT")
        sys.exit(status or exit_status(signal.SIGINT))
    except OSError as error:
        if error.filename or error.errno not in NO_OUTPUT:
            raise
        if error.errno != errno.EPIPE:  # who has closed a pipe, as `head` does, has all that he wants
            tell(f"error: the output cannot be written ({error.strerror})")
        _close_output()
        sys.exit(EXIT_BAD_INPUT)


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Let signals that would end the process at once end it by `leave`; what nohup has it ignore stays ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in ENDING if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _show_all_letters() -> None:
    """Have letters that a terminal's encoding lacks, and bytes of names that are no text, shown by their codes."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _close_output() -> None:
    """Let Python not stumble over the output once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
