"""The settings of the plain trainings, as Python and as flags give them."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import pytest

from hiera_det.cli import pretrain_mae, train_classifier
from hiera_det.cli.processes import settings_from
from hiera_det.errors import InputError
from hiera_det.modeling.variants import VARIANTS, HieraVariant
from hiera_det.tasks.recipes import FINETUNING, PRETRAINING
from hiera_det.tasks.settings import ClassifierSettings, PretrainSettings, TaskSettings

TOOLS = {ClassifierSettings: train_classifier, PretrainSettings: pretrain_mae}
#: What each kind needs at least.
NEEDED: dict[type[TaskSettings], dict[str, str]] = {
    ClassifierSettings: {"train": "a", "val": "b", "output": "c"},
    PretrainSettings: {"images": "a", "output": "c"},
}


def make(kind: type[TaskSettings], **values: Any) -> TaskSettings:
    return kind(**{"device": "cpu"} | NEEDED[kind] | values)


def from_flags(kind: type[TaskSettings], *words: str) -> TaskSettings:
    needed = [word for name, value in NEEDED[kind].items() for word in (f"--{name}", value)]
    args = TOOLS[kind].argument_parser().parse_args([*needed, "--device", "cpu", *words])
    return settings_from(kind, args)


@pytest.mark.parametrize("kind", TOOLS)
def test_flags_and_fields_are_the_same_and_so_are_their_defaults(kind: type[TaskSettings]) -> None:
    flags = {action.dest for action in TOOLS[kind].argument_parser()._actions} - {"help"}
    machines = {"num_gpus", "num_machines", "machine_rank", "dist_url", "timeout"}
    assert flags - machines == {field.name for field in fields(kind)} - {"words"}
    assert from_flags(kind) == make(kind)


@pytest.mark.parametrize(("kind", "name", "value", "says"), [
    (PretrainSettings, "batch_size", 0, "must be a whole number of at least 1"),
    (PretrainSettings, "lr", float("nan"), "must be a number of at least 0"),
    (PretrainSettings, "epochs", 0, "must be a whole number of at least 1"),
    (PretrainSettings, "drop_path", 1.0, "must be at least 0 and below 1"),
    (PretrainSettings, "ema_decay", 1.0, "give a decay below 1"),
    (PretrainSettings, "clip_norm", -1.0, "must be a number of at least 0"),
    (PretrainSettings, "precision", "float8", "choose float32, bfloat16, float16"),
    (PretrainSettings, "precision", "float16", "needs a GPU"),
    (PretrainSettings, "parallel", "tensor", "choose ddp or fsdp"),
    (PretrainSettings, "skip_nonfinite", -1, "must be a whole number of at least 0"),
    (PretrainSettings, "workers", -1, "must be a whole number of at least 0"),
    (PretrainSettings, "allow_changed", ["lr"], "which is not given"),
    (PretrainSettings, "mask_ratio", 1.5, "must be above 0 and below 1"),
    (PretrainSettings, "picture_epochs", 0, "must be a whole number of at least 1"),
    (PretrainSettings, "image_size", 100, "must be a positive multiple of 32"),
    (ClassifierSettings, "mixup", -1.0, "must not be negative"),
    (ClassifierSettings, "label_smoothing", 1.0, "must be at least 0 and below 1"),
    (ClassifierSettings, "layer_decay", 2.0, "must be above 0 and at most 1"),
    (ClassifierSettings, "random_erase", 2.0, "must be from 0 to 1"),
    (ClassifierSettings, "eval_epochs", 0, "must be a whole number of at least 1"),
    (ClassifierSettings, "best", "AP", "choose one of auto, top1, top5, val_loss, or '' for none"),
    (ClassifierSettings, "best", "ema/top1", "choose one of auto, top1, top5, val_loss"),
])  # fmt: skip
def test_a_wrong_value_is_named_by_the_flag_or_by_the_field(
    kind: type[TaskSettings], name: str, value: Any, says: str
) -> None:
    flag = f"--{name.replace('_', '-')}"
    words = list(map(str, value)) if isinstance(value, list) else [str(value)]
    for made_by, word in ((lambda: make(kind, **{name: value}), name), (lambda: from_flags(kind, flag, *words), flag)):
        with pytest.raises(InputError) as refused:
            made_by()
        assert str(refused.value).startswith(f"{word} ")
        assert says in str(refused.value)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(InputError, match=r"--batch-size 64: .+ must be a multiple of the processes times --accumulate"):
        from_flags(PretrainSettings, "--accumulate", "3")


def test_the_average_can_be_the_best() -> None:
    assert make(ClassifierSettings, ema_decay=0.9, best="ema/top1")


def test_images_or_videos_and_what_belongs_to_each() -> None:
    images = make(PretrainSettings)
    assert isinstance(images, PretrainSettings)
    assert (images.clip_frames, images.ratio) == (0, 0.6)
    videos = PretrainSettings(videos="a", output="c", device="cpu")
    assert (videos.clip_frames, videos.ratio) == (16, 0.9)
    assert videos.model_fields("tiny")["frames"] == 16
    with pytest.raises(InputError, match="give one folder to pretrain on: images DIR or videos DIR"):
        PretrainSettings(output="c", device="cpu")
    with pytest.raises(InputError, match="frames is for clips"):
        make(PretrainSettings, frames=16)


def test_dimensions_of_ones_own_take_the_place_of_the_sizes() -> None:
    assert make(PretrainSettings).model_fields("base_plus") == {
        **{"embed_dim": 112, "num_heads": 2, "depths": [2, 3, 16, 3], "pretrain_size": 224, "frames": 0}
    }
    own = make(PretrainSettings, embed_dim=32, depths=(1, 1, 1, 1), image_size=64, decoder_depth=2)
    assert own.model_fields("base_plus") == {
        **{"embed_dim": 32, "num_heads": 1, "depths": [1, 1, 1, 1], "pretrain_size": 64, "frames": 0},
        "decoder_depth": 2,
    }


@pytest.mark.parametrize("recipes", [PRETRAINING, FINETUNING])
def test_a_size_that_nobody_published_takes_the_nearest_recipe_and_says_so(
    recipes: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(VARIANTS, "nano", HieraVariant("nano", 64, 1, (1, 1, 2, 1)))
    settings = make(PretrainSettings, size="nano", drop_path=0.3)
    with caplog.at_level(logging.INFO):
        recipe = settings.recipe("nano", recipes)
    assert caplog.messages == ["recipe of size tiny, the nearest to nano"]
    assert recipe.lr == recipes["tiny"].lr
    assert recipe.drop_path_rate == 0.3


def test_the_recipes_rate_and_warm_up_are_for_its_own_batch_and_epochs() -> None:
    settings = make(PretrainSettings, batch_size=1024, epochs=400)
    schedule = settings.schedule(PRETRAINING["base"])
    assert (schedule.epochs, schedule.lr) == (400, 8e-4 / 4)
    assert schedule.warmup_epochs == pytest.approx(20)
    own = make(PretrainSettings, lr=0.5, warmup_epochs=0).schedule(PRETRAINING["base"])
    assert (own.epochs, own.lr, own.warmup_epochs) == (1600, 0.5, 0)
