"""Running a tool's file as a script in this process, where a new one would spend its time on imports."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Exit status and output of ``run_here(tool, *arguments)``."""

    def run(tool: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(tool), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        status = 0
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, printed.out, printed.err)

    return run
