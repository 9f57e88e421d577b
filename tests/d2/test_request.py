"""What a run is asked for, checked when it is made."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from hiera_det.cli.detector_flags import run_request, training_parser
from hiera_det.d2.config.request import RunRequest
from hiera_det.errors import InputError


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_gpus": 0}, "--num-gpus 0: give at least 1"),
        ({"num_gpus": -2}, "--num-gpus -2"),
        ({"num_machines": 0}, "--num-machines 0"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank 2: machines are counted from 0"),
        ({"machine_rank": -1}, "--machine-rank -1"),
        ({"allow_changed": ["SEED"]}, "--allow-changed: is for --resume, which is not given"),
    ],
)
def test_processes_that_cannot_be_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        RunRequest(**values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_flags_fill_it_and_it_travels_to_other_processes() -> None:
    words = ["--config-file", "a.yaml", "--train-json", "t.json", "--num-gpus", "2", "SOLVER.MAX_ITER", "3"]
    request = run_request(training_parser("train", None, "").parse_args(words))
    assert request == RunRequest("a.yaml", ("SOLVER.MAX_ITER", "3"), train_json="t.json", num_gpus=2)
    assert pickle.loads(pickle.dumps(request)) == request
    assert request.world_size == 2
    assert request.own_data == {"train_json": "t.json", "train_images": None, "val_json": None, "val_images": None}


def test_json_flags_given_again_need_their_folders() -> None:
    words = ["--train-json", "a.json", "--train-json", "b.json"]
    with pytest.raises(InputError, match=r"--train-json a\.json needs --train-images"):
        run_request(training_parser("train", "", "").parse_args(words))
