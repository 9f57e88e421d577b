"""Messages stay one line, whatever the names in them hold."""

from __future__ import annotations

import pytest

from hiera_det.errors import InputError, printable, run_tool


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
