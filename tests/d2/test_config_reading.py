"""Config files of strangers: bounded, without network or code, their mistakes in our words."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.reading import OWN_CONFIGS, read_files
from hiera_det.errors import InputError

QUICK = OWN_CONFIGS / "quick_start.yaml"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("_BASE_: http://127.0.0.1:9/base.yaml", "nothing is fetched"),
        ("_BASE_: s3://bucket/base.yaml", "nothing is fetched"),
        ("_BASE_: [3]", "by relative paths"),
        ("_BASE_: {a: b}", "by relative paths"),
        ("_BASE_: /etc/hostname", "by a path relative to this file"),
        ("_BASE_: ~/base.yaml", "by a path relative to this file"),
        ("_BASE_: absent.yaml", "_BASE_ absent.yaml: no such file"),
        ("_BASE_: .", "_BASE_ .: no such file"),
        ("_BASE_: config.yaml", "leads back to the file itself"),
        ("SOLVER: {MAX_ITER: 3}\nSOLVER: {BASE_LR: 1.0}", "line 2: SOLVER stands here a second time"),
        ("SOLVER:\n\tMAX_ITER: 3", "line 2: not valid YAML: a tab"),
        ("MODEL: !!python/object/apply:os.system ['true']", "line 1: not valid YAML: tags"),
        ("MODEL: {MASK_ON: True", "not closed"),
        ("SOLVER: {MAX_ITER: 'x}", "a quote is not closed"),
        ("a: b: c", "a second colon"),
        ("SOLVER:\n  MAX_ITER: 3\n BASE_LR: 1", "line 3: not valid YAML: the indentation changes"),
        ("SOLVER: {MAX_ITER: *x}", "an alias"),
        ("SOLVER: \x07", "a control character"),
        ("SOLVER: {BASE_LR: 2020-13-45}", "a value cannot be read"),
        (f"SOLVER: {{MAX_ITER: {'9' * 5000}}}", "a value cannot be read"),
        ("[" * 5000, "too deep"),
        ("- 1\n- 2", "where keys belong"),
        ("1: 2", "unknown config key 1"),
        ("SOLVER:", "SOLVER None: a value stands where keys belong"),
        ("SOLVER: {MAX_ITER: {a: 1}}", "unknown config key SOLVER.MAX_ITER.a"),
        ("a: &a [*a, *a]", "more than 100000 values"),
        ("a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "\n".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(8)
        ), "more than 100000 values"),
        ("SOLVER: {MAX_ITER: five}", "SOLVER.MAX_ITER five: give a whole number"),
        ("SOLVER: {BASE_LR: .nan}", "SOLVER.BASE_LR nan: give a number above 0"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_in_one_line(config: Path, text: str, says: str) -> None:
    config.write_text(text)
    message = refusal(config)
    assert says in message
    assert "config.yaml" in message


def test_no_base_is_fetched(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        config.write_text(f"_BASE_: http://127.0.0.1:{server.getsockname()[1]}/base.yaml")
        refusal(config)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_large_file_and_a_long_chain_of_bases_are_refused(config: Path, tmp_path: Path) -> None:
    config.write_text("#" * (2**20 + 1))
    assert "larger than 1 MiB" in refusal(config)
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {number + 1}.yaml")
    assert "more than 10 files by _BASE_" in refusal(tmp_path / "0.yaml")


def test_a_cycle_of_two_files_names_both(config: Path, tmp_path: Path) -> None:
    config.write_text("_BASE_: other.yaml")
    (tmp_path / "other.yaml").write_text("_BASE_: config.yaml")
    assert "other.yaml -> " in refusal(config)


def test_relative_bases_and_those_of_this_project_are_read_in_order(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("SOLVER: {MAX_ITER: 7}")
    config.write_text(f"_BASE_: [{QUICK}, mine.yaml]\nSEED: 3")
    assert [Path(layer.source).name for layer in read_files(str(config))][-3:] == [
        "quick_start.yaml",
        "mine.yaml",
        "config.yaml",
    ]
    cfg = load_config(str(config))
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED, cfg.SOLVER.BASE_LR) == (7, 3, 3.5e-4)


def test_a_config_of_detectron2s_first_layout_is_translated(config: Path) -> None:
    config.write_text("VERSION: 1\nMODEL: {WEIGHT: a.pth}\nSOLVER: {MAX_ITER: 9}")
    cfg = load_config(str(config))
    assert (cfg.MODEL.WEIGHTS, cfg.SOLVER.MAX_ITER, cfg.VERSION) == ("a.pth", 9, 2)
    config.write_text("VERSION: 1\nMODEL: {WEIGHT: [1]}")
    assert "a config of VERSION 1" in refusal(config)
