"""Configs are found by their names, wherever the command is run, and by their paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiera_det.d2.config.files import OWN_CONFIGS, find_config
from hiera_det.d2.config.load import load_config
from hiera_det.d2.lazy.files import load_lazy_config
from hiera_det.errors import InputError

OURS = OWN_CONFIGS / "mask_rcnn_hiera_t.yaml"


@pytest.mark.parametrize("name", ["mask_rcnn_hiera_t", "mask_rcnn_hiera_t.yaml", "configs/mask_rcnn_hiera_t.yaml"])
def test_ours_are_found_by_name_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)).samefile(OURS)
    assert load_config(name).dump() == load_config(str(OURS)).dump()


def test_a_lazy_config_is_found_by_name_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_lazy_config("mask_rcnn_hiera_t_100ep").train.max_iter == 184824


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mask_rcnn_hiera_t.yaml").write_text("_BASE_: " + str(OURS) + "\nSEED: 7\n")
    assert load_config("mask_rcnn_hiera_t.yaml").SEED == 7
    assert load_config("mask_rcnn_hiera_t").SEED != 7


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("mask_rcnn_hera_t", "*.yaml", r"mask_rcnn_hera_t: no such file; did you mean mask_rcnn_hiera_t\?"),
        ("mine/mask_rcnn_hiera_t.yaml", "*.yaml", "mine/mask_rcnn_hiera_t.yaml: no such file"),
        ("lsj_100ep", "*.yaml", "lsj_100ep: no such file"),
        ("mask_rcnn_hiera_t", "lazy/*.py", r"did you mean mask_rcnn_hiera_t_100ep\?"),
    ],
)
def test_what_is_no_config_is_refused_with_the_nearest(name: str, kind: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_config(name, kind)
