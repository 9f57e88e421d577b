"""Checkpoints of a real detector: out and in again, across processes, and what happens when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hiera
import pytest
import timm
import torch
import transformers
from detectron2.modeling import build_model
from torch import nn

import hiera_det.d2  # noqa: F401  registers
from hiera_det import build_hiera, hiera_classifier, hiera_mae
from hiera_det.d2.config.load import load_config
from hiera_det.d2.train.checkpoint import HieraCheckpointer, check_weights, local_weights
from hiera_det.errors import InputError

BASE = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")
SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 1, 1, 1)}
OPTS = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]"]
OPTS += ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.CONV_DIM", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"]

WIDER = ["MODEL.HIERA.EMBED_DIM", "32"]

IN_ANOTHER_PROCESS = """
import sys, torch
from detectron2.modeling import build_model
import hiera_det.d2
from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.d2.config.load import load_config
base, weights, image, target, *opts = sys.argv[1:]
model = build_model(load_config(base, opts)).eval()
HieraCheckpointer(model).load(weights)
with torch.no_grad():
    torch.save(model.backbone(torch.load(image)), target)
"""


@pytest.fixture
def model() -> nn.Module:
    return build_model(load_config(BASE, OPTS))


def randomised(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


def test_what_one_process_saves_another_loads(model: nn.Module, tmp_path: Path) -> None:
    model.load_state_dict(randomised(model.state_dict()))
    HieraCheckpointer(model, str(tmp_path)).save("model_0000001")
    image = torch.randn(1, 3, 64, 96)
    torch.save(image, tmp_path / "image.pt")
    files = [str(tmp_path / name) for name in ("model_0000001.pth", "image.pt", "maps.pt")]
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, BASE, *files, *OPTS], check=True, capture_output=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "maps.pt"), model.eval().backbone(image))


def test_the_authors_file_fills_the_trunk_and_nothing_else(model: nn.Module, tmp_path: Path) -> None:
    state = randomised(build_hiera("tiny", **SMALL).state_dict())
    extras = {"norm.weight": torch.zeros(128), "head.projection.weight": torch.zeros(10, 128)}
    torch.save({"model_state": state | extras}, tmp_path / "mae.pth")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    HieraCheckpointer(model).load(str(tmp_path / "mae.pth"))
    torch.testing.assert_close(dict(model.backbone.trunk.state_dict()), state, rtol=0, atol=0)
    for name, tensor in model.state_dict().items():
        if not name.startswith("backbone.trunk."):
            assert torch.equal(tensor, before[name]), name


def small_official(**fields: Any) -> nn.Module:
    fields = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)} | fields
    return hiera.Hiera(**fields)


def small_hf(kind: type, **fields: Any) -> nn.Module:
    heads = [1, 2, 4, 8]
    return kind(transformers.HieraConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=heads, **fields))


PEERS = {
    "official classifier": small_official,
    "official MAE": lambda: hiera.MaskedAutoencoderHiera(embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), q_pool=2),
    "transformers": lambda: small_hf(transformers.HieraModel),
    "transformers MAE": lambda: small_hf(
        transformers.HieraForPreTraining,
        num_query_pool=2,
        decoder_hidden_size=32,
        decoder_depth=1,
        decoder_num_heads=1,
    ),
    "timm": lambda: timm.models.hiera.Hiera(embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)),
    "our MAE": lambda: hiera_mae("tiny", decoder_depth=1, **SMALL),
    "our classifier": lambda: hiera_classifier("tiny", 5, **SMALL),
}


@pytest.mark.parametrize("peer", PEERS)
def test_every_layout_fills_the_whole_trunk_of_a_detector(
    model: nn.Module, tmp_path: Path, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = PEERS[peer]().state_dict()
    torch.save({"model_state": theirs} if "official" in peer else theirs, tmp_path / "weights.pth")
    with torch.no_grad():
        for parameter in model.backbone.trunk.parameters():
            parameter.fill_(torch.nan)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO", "hiera_det"):
        HieraCheckpointer(model).load(str(tmp_path / "weights.pth"))
    trunk = model.backbone.trunk.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in trunk.values())
    values = sorted(tensor.double().sum().item() for tensor in theirs.values())
    for name, tensor in trunk.items():  # each came from the file
        assert min(abs(tensor.double().sum().item() - value) for value in values) == 0, name
    for name, tensor in model.state_dict().items():
        if not name.startswith("backbone.trunk."):
            assert torch.equal(tensor, before[name]), name
    report = next(record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage())
    fresh = len(before) - len(trunk)
    assert f"{len(trunk)} tensors loaded; 0 resampled; {len(theirs) - len(trunk)} dropped" in report
    assert f"{fresh} newly initialised" in report


def test_sam2s_file_trains_a_detector_with_its_config(tmp_path: Path) -> None:
    theirs = timm.create_model("sam2_hiera_tiny", num_classes=0).state_dict()
    names = {name: name.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1") for name in theirs}
    trunk = {f"image_encoder.trunk.{names[name]}": tensor for name, tensor in theirs.items() if "head" not in name}
    torch.save({"model": trunk | {"no_mem_embed": torch.zeros(1, 1, 256)}}, tmp_path / "sam2.1_hiera_tiny.pt")
    config = str(Path(BASE).parent / "mask_rcnn_hieradet_t.yaml")
    detector = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
    HieraCheckpointer(detector).load(str(tmp_path / "sam2.1_hiera_tiny.pt"))
    for name, tensor in detector.backbone.trunk.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    plain = build_model(load_config(BASE, ["MODEL.DEVICE", "cpu"]))
    with pytest.raises(
        InputError, match=r"it is hieradet_tiny, whose .* hiera_det\.hieradet_tiny\(\), or .* its config"
    ):
        HieraCheckpointer(plain).load(str(tmp_path / "sam2.1_hiera_tiny.pt"))


def test_a_detector_saved_by_several_gpus_is_loaded_whole(model: nn.Module, tmp_path: Path) -> None:
    state = randomised(model.state_dict())
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "model.pth")
    HieraCheckpointer(model).load_detector(str(tmp_path / "model.pth"))
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_weights_are_checked_without_building_the_model(tmp_path: Path) -> None:
    torch.save(build_hiera("tiny", **SMALL).state_dict(), tmp_path / "small.pth")
    fitting, other = [[*OPTS, "MODEL.WEIGHTS", str(tmp_path / "small.pth"), *more] for more in ([], WIDER)]
    check_weights(load_config(BASE, fitting))
    check_weights(load_config(BASE, [*OPTS, "MODEL.WEIGHTS", ""]))
    with pytest.raises(
        InputError, match=r"small\.pth does not fit: this file is .* embed dim 16; the model is .*: 32;"
    ):
        check_weights(load_config(BASE, other))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_detector_of_another_size_is_refused(model: nn.Module, tmp_path: Path, wrapped: bool) -> None:
    other = build_model(load_config(BASE, [*OPTS, "MODEL.HIERA.EMBED_DIM", "32"])).state_dict()
    torch.save({"model": other} if wrapped else other, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth does not fit: this file is .* embed dim 32; the model is .*: 16;"
    ):
        HieraCheckpointer(model).load(str(tmp_path / "other.pth"))


def test_a_save_that_fails_leaves_the_old_file_whole(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = HieraCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def disk_full(data: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", disk_full)
    with pytest.raises(InputError, match="the disk is full"):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model_final.pth", "last_checkpoint"}


def test_resume_takes_up_optimizer_and_iteration(model: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    HieraCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000007", iteration=7)
    fresh = build_model(load_config(BASE, OPTS))
    fresh_optimizer = torch.optim.AdamW(fresh.parameters())
    extra = HieraCheckpointer(fresh, str(tmp_path), optimizer=fresh_optimizer).resume_or_load("", resume=True)
    assert extra["iteration"] == 7
    torch.testing.assert_close(fresh_optimizer.state_dict()["state"], optimizer.state_dict()["state"])
    torch.testing.assert_close(dict(fresh.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("change", ["classes", "groups"])
def test_resuming_another_detector_or_optimizer_is_refused(model: nn.Module, tmp_path: Path, change: str) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    HieraCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000001")
    other = (
        build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])) if change == "classes" else model
    )
    groups = [{"params": [parameter]} for parameter in other.parameters()] if change == "groups" else other.parameters()
    says = {
        "classes": r"model_0000001\.pth lacks 6 tensors of the model .*roi_heads",
        "groups": r"--resume: .*model_0000001\.pth does not fit",
    }[change]
    with pytest.raises(InputError, match=says) as caught:
        HieraCheckpointer(other, str(tmp_path), optimizer=torch.optim.SGD(groups, lr=0.1)).resume_or_load("")
    assert "\n" not in str(caught.value)


def test_other_classes_start_with_fresh_heads_when_not_resuming(model: nn.Module, tmp_path: Path) -> None:
    HieraCheckpointer(model, str(tmp_path)).save("model_final")
    other = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    HieraCheckpointer(other).resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    torch.testing.assert_close(dict(other.backbone.state_dict()), dict(model.backbone.state_dict()), rtol=0, atol=0)


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(names, 5)]


@pytest.fixture
def of_three(tmp_path: Path) -> dict[str, torch.Tensor]:
    """What a detector of box, tri and disc has saved."""
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    model.load_state_dict(randomised(model.state_dict()))
    checkpointer = HieraCheckpointer(model, str(tmp_path))
    checkpointer.categories = named("box", "tri", "disc")
    checkpointer.save("model_final")
    return model.state_dict()


@pytest.mark.parametrize(
    "names", [("disc", "cat", "box"), ("disc", "tri", "box"), ("cat", "disc"), ("box", "tri", "disc")]
)
def test_fine_tuning_takes_over_each_class_by_its_name(
    of_three: dict[str, torch.Tensor], names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", str(len(names))]))
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpointer = HieraCheckpointer(model)
    checkpointer.categories = named(*names)
    with caplog.at_level("INFO", "hiera_det"):
        checkpointer.resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    rows = {"cls_score": 1, "bbox_pred": 4, "mask_head.predictor": 1}
    for name, tensor in model.state_dict().items():
        per_class = next((count for word, count in rows.items() if f"{word}." in name), 0)
        if not per_class:
            assert torch.equal(tensor, of_three[name]), name
            continue
        for place, label in enumerate(names):
            old = ("box", "tri", "disc").index(label) if label != "cat" else place
            source = fresh[name] if label == "cat" else of_three[name]
            here, there = (slice(at * per_class, (at + 1) * per_class) for at in (place, old))
            assert torch.equal(tensor[here], source[there]), (name, label)
        if "cls_score" in name:  # no class at all
            assert torch.equal(tensor[-1], of_three[name][-1])
    lines = [record.getMessage() for record in caplog.records if "classes go by name" in record.getMessage()]
    assert len(lines) == (names != ("box", "tri", "disc"))
    if names[0] == "cat":
        assert lines[0].endswith("1 of 2 are the checkpoint's; new and untrained: ['cat']; left out: ['box', 'tri']")


def test_a_file_that_names_no_classes_is_taken_as_it_is(of_three: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": of_three}, tmp_path / "model.pth")
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    checkpointer = HieraCheckpointer(model)
    checkpointer.categories = named("cat", "dog", "cow")
    checkpointer.load(tmp_path / "model.pth")
    torch.testing.assert_close(dict(model.state_dict()), dict(of_three), rtol=0, atol=0)


@pytest.mark.parametrize("names", [("disc", "tri", "box"), ("box", "tri", "cat"), ("box", "tri")])
@pytest.mark.usefixtures("of_three")
def test_resuming_with_other_classes_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", str(len(names))]))
    checkpointer = HieraCheckpointer(model, str(tmp_path))
    checkpointer.categories = named(*names)
    says = r"--resume: .*model_final\.pth is of the classes \['box', 'tri', 'disc'\], and the data has \['"
    with pytest.raises(InputError, match=says):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("part", ["optimizer", "weights"])
def test_a_checkpoint_that_has_diverged_is_passed_over_for_the_one_before(
    model: nn.Module, part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpointer = HieraCheckpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.save("model_0000003", iteration=3)
    weight = model.roi_heads.box_predictor.cls_score.weight
    broken = optimizer.state[weight]["exp_avg"] if part == "optimizer" else weight.data
    broken[0, 0] = torch.nan
    checkpointer.save("model_0000007", iteration=7)
    fresh = build_model(load_config(BASE, OPTS))
    again = HieraCheckpointer(fresh, str(tmp_path), optimizer=torch.optim.AdamW(fresh.parameters()))
    assert again.resume_or_load("", resume=True)["iteration"] == 3
    where = r"model_0000007\.pth: has NaN or infinite values in "
    where += "optimizer.state" if part == "optimizer" else r"model\.roi_heads\.box_predictor\.cls_score\.weight"
    assert re.search(where, caplog.text)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_heads_of_other_numbers_are_refused_and_not_cast(
    of_three: dict[str, torch.Tensor], dtype: torch.dtype, tmp_path: Path
) -> None:
    name = "roi_heads.box_predictor.cls_score.weight"
    torch.save({"model": {**of_three, name: of_three[name].to(dtype)}}, tmp_path / "model.pth")
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    before = model.roi_heads.box_predictor.cls_score.weight.clone()
    with pytest.raises(InputError, match=rf"tensor {name} is of {str(dtype).removeprefix('torch.')}, and the model's"):
        HieraCheckpointer(model).load(tmp_path / "model.pth")
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, before)


@pytest.mark.parametrize("where", ["roi_heads.box_predictor.cls_score.weight", "backbone.neck.lateral.p3.0.weight"])
def test_heads_and_necks_that_have_diverged_are_refused(
    of_three: dict[str, torch.Tensor], where: str, tmp_path: Path
) -> None:
    of_three[where].view(-1)[5] = torch.nan
    torch.save({"model": of_three}, tmp_path / "model.pth")
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    for load in (HieraCheckpointer(model).load, HieraCheckpointer(model).load_detector):
        with pytest.raises(InputError, match=rf"1 with NaN or infinite values \({where}\)"):
            load(tmp_path / "model.pth")


@pytest.mark.parametrize("categories", ["box", [1], [{"id": 1}], [{"id": 1, "name": 2}], {"id": 1, "name": "box"}])
def test_categories_that_are_none_are_named(of_three: dict[str, torch.Tensor], categories: Any, tmp_path: Path) -> None:
    torch.save({"model": of_three, "categories": categories}, tmp_path / "model.pth")
    model = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    with pytest.raises(InputError, match=r'model\.pth: its "categories" are no list of'):
        HieraCheckpointer(model).load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"state_dict": {}}, "entry 'state_dict' is a dict"),
        ({"model": {"backbone.trunk.pos_embed": "text"}}, "entry 'backbone.trunk.pos_embed' is a str"),
        ({"model": [1]}, "entry 'model' is a list"),
    ],
)
def test_a_file_without_a_state_dict_is_named(
    model: nn.Module, tmp_path: Path, content: dict[str, Any], says: str
) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=rf"odd\.pth.*{says}") as caught:
        HieraCheckpointer(model).load(str(tmp_path / "odd.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model_0000009.pth", "../model_0000001.pth", "", ".", "/etc/passwd"])
def test_a_last_checkpoint_that_is_none_gives_way_to_the_newest(
    model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    HieraCheckpointer(model, str(tmp_path)).save("model_0000001", iteration=1)
    (tmp_path / "last_checkpoint").write_text(name)
    assert HieraCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)["iteration"] == 1
    assert f"names {name!r}, which is no file of this folder" in caplog.text


def test_resume_without_a_checkpoint_is_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--resume: no checkpoint in"):
        HieraCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)


def test_a_url_out_of_reach_names_the_file_and_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "http://127.0.0.1:9/mae_hiera_tiny_224.pth"
    place = tmp_path / "hub" / "checkpoints" / "127.0.0.1_9" / "mae_hiera_tiny_224.pth"
    with pytest.raises(InputError) as caught:
        local_weights(url)
    assert url in str(caught.value)
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not place.exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"by hand")
    assert local_weights(url) == str(place)


@pytest.mark.parametrize("address", ["catalog://ImageNetPretrained/none", "s3://none/model.pth"])
def test_an_address_of_detectron2s_that_gives_no_file_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(InputError, match=f"MODEL.WEIGHTS {address}: detectron2's path manager gives no file"):
        local_weights(address)


@pytest.mark.parametrize("fault", ["trunk only", "other classes"])
def test_a_file_without_fitting_heads_is_not_evaluated(model: nn.Module, tmp_path: Path, fault: str) -> None:
    if fault == "trunk only":
        torch.save({"model_state": dict(model.backbone.trunk.state_dict())}, tmp_path / "weights.pth")
    else:
        other = build_model(load_config(BASE, [*OPTS, "MODEL.ROI_HEADS.NUM_CLASSES", "7"]))
        torch.save({"model": other.state_dict()}, tmp_path / "weights.pth")
    HieraCheckpointer(model).load(str(tmp_path / "weights.pth"))  # to train on is fine
    with pytest.raises(InputError, match="no detection heads" if fault == "trunk only" else "in another shape"):
        HieraCheckpointer(model).load_detector(str(tmp_path / "weights.pth"))
