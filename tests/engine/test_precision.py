"""Number formats: refused where the device has none, and told apart where one takes longer."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from hiera_det.engine import precision
from hiera_det.engine.precision import check_precision
from hiera_det.errors import InputError
from hiera_det.modeling.fast.paths import Processor


@pytest.fixture(params=[1, 1.5, 6])
def factor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    monkeypatch.setattr(precision, "bfloat16_factor", lambda: request.param)
    precision._warn_of_slowness.cache_clear()
    yield request.param
    precision._warn_of_slowness.cache_clear()


def test_bfloat16_that_takes_longer_is_one_line_and_goes_on(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hiera_det"):
        for _ in range(2):
            check_precision("bfloat16", "cpu", "--precision")
        check_precision("float32", "cpu")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (factor > 1)
    assert all(line.startswith(f"--precision bfloat16: a step takes about {factor} times as long") for line in lines)


def test_a_cpu_is_not_told_to_take_what_takes_longer(factor: float) -> None:
    with pytest.raises(InputError) as refused:
        check_precision("float16", "cpu")
    assert ("bfloat16" in str(refused.value)) != (factor > 1)


@pytest.mark.parametrize(
    ("supported", "vendor", "matrix_units", "factor"),
    [
        (False, "AuthenticAMD", False, 6),
        (True, "AuthenticAMD", False, 1),
        (True, "GenuineIntel", False, 1.5),
        (True, "GenuineIntel", True, 1),
    ],
)
def test_it_takes_longer_where_that_was_measured(
    supported: bool, vendor: str, matrix_units: bool, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units, raising=False)
    monkeypatch.setattr(precision, "processor", lambda: Processor(vendor, 6, "AVX512"))
    assert precision.bfloat16_factor() == factor
