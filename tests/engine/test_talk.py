"""What a training says (hiera_det/engine/talk.py): lines where no terminal is, a bar where one is."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hiera_det.engine.best import Best
from hiera_det.engine.log import LogFile, LogStream, PlainFormatter
from hiera_det.engine.talk import Length, Talk, Terminal, say, told_place


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Screen])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    logger, stream = logging.getLogger("hiera_det"), request.param()
    handler, level = Terminal(stream), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_steps_evaluations_and_the_end_are_told(stream: io.StringIO, tmp_path: Path) -> None:
    best = Best("auto")
    talk = Talk(Length(200, 4, 40), best, str(tmp_path), stream, "hiera-det predict --run mine")
    for iteration in range(1, 101):
        talk.on_step(iteration, {"total_loss": 2.0})
    for iteration, box, mask in ((100, 40.0, 35.0), (110, 38.0, 36.0)):
        metrics = {"bbox/AP": box, "segm/AP": mask, "bbox/AP50": 1.0, "val_loss": 0.81}
        best.improved(metrics, iteration)
        talk.on_evaluation(iteration, metrics)
    talk.on_step(111, {"total_loss": 1.0})
    talk.on_step(120, {"total_loss": 1.0})
    (tmp_path / "model_best.pth").touch()
    talk.on_end(200)
    said = stream.getvalue()
    assert "epoch 11/20  box AP 38.0 (best 40.0, epoch 10)  mask AP 36.0  val loss 0.810" in said
    assert "images/s" in said
    if stream.isatty():
        assert "%|" in said
        assert "iteration 1/200  epoch 0.1/20  ETA" in said
    else:
        assert "iteration 120/200  epoch 12.0/20  ETA 0:00:0" in said
        assert "loss 1.9  box AP 38.0 (best 40.0)" in said
        assert said.count("iteration ") == 7  # 1, 20 to 100, 120
    assert "expected    0:00:0" in said
    assert f"best    {tmp_path / 'model_best.pth'}: box AP 40.0, epoch 10\n" in said
    assert said.endswith("next    hiera-det predict --run mine\n")


def test_others_are_not_heard_unless_they_fail(stream: io.StringIO) -> None:
    logging.getLogger("hiera_det.any").info("for the file")
    logging.getLogger("hiera_det.any").warning("look")
    say.info("hear")
    assert stream.getvalue() == "warning: look\nhear\n"


def test_the_file_has_no_colours_and_what_others_print(tmp_path: Path) -> None:
    logger = logging.getLogger("test_talk")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = LogFile(str(tmp_path))
    handler.setFormatter(PlainFormatter("%(message)s"))
    logger.addHandler(handler)
    logger.info("\x1b[32mgreen\x1b[0m")
    print("half", end="", file=LogStream(logger))
    print("a table\nof two lines", file=LogStream(logger))
    logger.removeHandler(handler)
    handler.close()
    assert (tmp_path / "log.txt").read_text() == "green\na table\nof two lines\n"


def test_a_place_is_an_epoch_where_that_is_known() -> None:
    assert told_place(16, Length(763, 4, 61)) == "epoch 1/50"
    assert told_place(8, Length(763, 4, 61), of_total=False) == "epoch 0.5"
    assert told_place(20, Length(30, 4)) == "iteration 20/30"
