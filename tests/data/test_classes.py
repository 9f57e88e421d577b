"""Classes of a checkpoint and of a data set, matched by name."""

from __future__ import annotations

import pytest

from hiera_det.data.classes import match_classes, same_classes_order
from hiera_det.errors import InputError


@pytest.mark.parametrize(
    ("checkpoint", "data", "rows", "new", "dropped"),
    [
        (["a", "b"], ["a", "b"], (0, 1), (), ()),
        (["a", "b", "c"], ["c", "a", "b"], (2, 0, 1), (), ()),
        (["a", "b"], ["b", "d"], (1, None), ("d",), ("a",)),
        (["a"], [], (), (), ("a",)),
        (["a", "x", "a"], ["a", "a", "a"], (0, 2, None), ("a",), ("x",)),
        (["cafe\u0301 "], ["caf\u00e9"], (0,), (), ()),
        (["Box"], ["box"], (None,), ("box",), ("Box",)),
    ],
)
def test_rows_follow_the_names(
    checkpoint: list[str], data: list[str], rows: tuple[int | None, ...], new: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    match = match_classes(checkpoint, data)
    assert (match.rows, match.new, match.dropped) == (rows, new, dropped)
    assert match.is_same_set == (not new and not dropped)
    assert match.is_same_order == (checkpoint == data or rows == (0,))


def test_the_same_names_in_another_order_are_mapped() -> None:
    names, data = ["box", "tri", "disc"], ["disc", "box", "tri"]
    order = same_classes_order(names, data, "model.pth", "val.json")
    assert [data[index] for index in order] == names


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (["box", "bus"], r"val\.json: .* not those of model\.pth: \['box', 'bus'\] .*, \['box', 'disc'\]"),
        (["box"], r"\['box'\] in the data, \['box', 'disc'\] in the checkpoint"),
        (["Disc", "box"], "differ only in upper and lower case"),
        ([f"class {index}" for index in range(90)], r"'class 19', \.\.\. \(90 in all\)\]"),
    ],
)
def test_other_names_are_refused_with_both_lists(data: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        same_classes_order(["box", "disc"], data, "model.pth", "val.json")
