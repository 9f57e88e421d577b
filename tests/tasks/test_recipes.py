"""Recipes are there for every size that can be built, published or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hiera_det.modeling.variants import VARIANTS
from hiera_det.tasks.recipes import FINETUNING, PRETRAINING


def test_the_six_published_sizes_have_recipes_of_their_own() -> None:
    published = ["tiny", "small", "base", "base_plus", "large", "huge"]
    assert list(PRETRAINING) == published
    assert list(FINETUNING) == published


@pytest.mark.parametrize(
    ("change", "like"),
    [
        ({"embed_dim": 32, "depths": (1, 1, 2, 1)}, "tiny"),
        ({"embed_dim": 96, "depths": (1, 2, 11, 3)}, "small"),
        ({"embed_dim": 320, "depths": (2, 6, 48, 4)}, "huge"),
    ],
)
def test_another_size_has_the_recipes_of_the_published_one_next_to_it(
    change: dict[str, object], like: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "mine", replace(VARIANTS["base"], name="mine", **change))
    assert FINETUNING["mine"] == FINETUNING[like]
    assert PRETRAINING["mine"] == PRETRAINING[like]


def test_a_size_that_is_none_has_no_recipe() -> None:
    with pytest.raises(KeyError, match="gigantic"):
        FINETUNING["gigantic"]
