"""Messages stay one line, whatever the names in them hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hiera_det.errors import InputError, printable, run_tool

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a photo é 干净 \N{PARTY POPPER}.png", "a photo é 干净 \N{PARTY POPPER}.png"),
        ("a\x1b[31mred\nb\tc", r"a\x1b[31mred\nb\tc"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("line\u2028end\x00\x85", r"line\u2028end\x00\x85"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), r"\udcff.jpg"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown_by_its_code(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(InputError(f"{text}: no such file")) == f"{shown}: no such file"
    shown.encode()  # can be printed


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(InputError("no such file"), 2, "error: no such file\n"), (KeyboardInterrupt(), 130, "stopped by SIGINT\n")],
)
def test_a_tool_ends_in_a_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_tool(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 / 0)


def test_a_signal_ends_a_tool_in_a_line_by_the_way_out_and_what_nohup_ignores_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    left: list[str] = []

    def main(number: int) -> None:
        try:
            signal.raise_signal(number)
            left.append("went on")
        finally:
            left.append("tidied up")

    with pytest.raises(SystemExit) as ended:
        run_tool(lambda: main(signal.SIGHUP))
    assert (ended.value.code, capsys.readouterr().err) == (143, "stopped by SIGHUP\n")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_tool(lambda: main(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert left == ["tidied up", "went on", "tidied up"]
    assert signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


#: Prints a letter that the terminal lacks, by `run_tool`.
SAYS = "import hiera_det.errors as e; e.run_tool(lambda: print('a\\N{PARTY POPPER}'))"


def test_an_output_that_takes_no_more_and_letters_that_it_lacks_are_no_traceback() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", SAYS]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (2, "error: the output cannot be written (No space left on device)\n")
    assert subprocess.run(words, stdout=subprocess.PIPE, env=environment, check=True).stdout == b"a\\U0001f389\n"
