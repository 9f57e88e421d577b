"""User mistakes told in one line.

Everything that a user hands in (a key, a path, a size, a JSON) is checked where it enters. A mistake raises
`InputError`, whose message names the file, key or value and says what to do. The tools turn it into one line on
stderr and exit status 2; from Python it is an ordinary `ValueError`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

__all__ = ["InputError", "printable", "run_tool"]

#: Exit status of a tool that refuses its input, a wrong flag included.
EXIT_BAD_INPUT = 2
#: And of one that SIGINT has ended, as shells have it.
EXIT_INTERRUPTED = 130


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

    Ctrl-C ends in a line too, with 130; a training that listened to it has said so itself, and knows its status. Any
    other exception is a defect of ours and keeps its traceback.

    Args:
        main: the tool.
        say: takes the line; else it goes to stderr.
    """
    say = say or (lambda line: print(line, file=sys.stderr))
    try:
        main()
    except InputError as error:
        say(f"error: {error}")
        sys.exit(EXIT_BAD_INPUT)
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == __package__:
            raise
        say(f"error: {error.name} is not installed: hiera-det doctor has the command that gets it")
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt as stop:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # again, while the process ends: at once, no traceback
        status: int = getattr(stop, "status", 0)  # of `hiera_det.engine.stop.StopRequested`
        if not status:
            say("stopped by SIGINT")
        sys.exit(status or EXIT_INTERRUPTED)
