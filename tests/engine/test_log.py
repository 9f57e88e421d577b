"""What a training prints may go to a terminal that is gone or to a disk that is full."""

from __future__ import annotations

import errno
import logging
import os
import sys

import pytest

from hiera_det.engine.log import outlasting


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_printing_goes_on_where_nothing_can_be_written(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open(os.dup(2), "w", buffering=1)  # noqa: SIM115
    said: list[str] = []

    def write(text: str) -> int:
        said.append(text)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stream, "write", write)
    monkeypatch.setattr(sys, "__stderr__", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with outlasting():
        print("one", file=sys.stderr)
        logging.StreamHandler(sys.stderr).emit(logging.makeLogRecord({"msg": "two"}))
    assert "".join(said).split() == ["one", "two"]
    stream.close()
