"""A trained detector on images, as a user of the package calls it."""

from __future__ import annotations

import gc
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask

import hiera_det
from hiera_det.d2.config.load import load_config
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.errors import InputError

CATEGORIES = [{"id": 7, "name": "fig"}, {"id": 42, "name": "date"}]
#: Width and height: two of one size among others.
SIZES = [(96, 64), (64, 96), (80, 80), (96, 64), (200, 150)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [tmp_path_factory.mktemp("images") / f"{index}.png" for index in range(len(SIZES))]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def predictor(folder: Path, *opts: str, threshold: float = 0.0) -> Predictor:
    return Predictor.from_folder(str(folder), opts, threshold)


def config_of(folder: Path) -> CfgNode:
    return load_config(str(folder / "config.yaml"), ["MODEL.WEIGHTS", ""])


def assert_same(first: Instances, second: Instances) -> None:
    assert first.image_size == second.image_size
    assert len(first) == len(second) > 0
    torch.testing.assert_close(first.scores, second.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, rtol=0, atol=1e-2)
    assert (first.pred_masks != second.pred_masks).float().mean() < 1e-3


def test_a_training_folder_is_enough(run_folder: Path, files: list[str]) -> None:
    loaded = hiera_det.Predictor.from_folder(str(run_folder), threshold=0.0)
    assert loaded.categories == CATEGORIES
    assert loaded.class_names == ["fig", "date"]
    assert not loaded.model.training
    predictions = list(loaded.predict_files(files))
    assert [prediction.file for prediction in predictions] == files
    for prediction, (width, height) in zip(predictions, SIZES, strict=True):
        np.testing.assert_array_equal(prediction.image, np.asarray(Image.open(prediction.file)))
        assert prediction.instances.image_size == (height, width)
        assert prediction.instances.pred_masks.shape[1:] == (height, width)


def test_predictions_are_those_of_detectron2s_predictor(
    run_folder: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = predictor(run_folder)
    monkeypatch.setattr("detectron2.engine.defaults.DetectionCheckpointer", HieraCheckpointer)
    theirs = DefaultPredictor(ours.cfg)
    for prediction in ours.predict_files(files):
        assert_same(prediction.instances, theirs(prediction.image[:, :, ::-1])["instances"])


def test_a_model_of_bgr_images_sees_bgr_and_gives_rgb(run_folder: Path, files: list[str], tmp_path: Path) -> None:
    swapped = str(tmp_path / "swapped.png")
    Image.fromarray(np.asarray(Image.open(files[0]))[:, :, ::-1]).save(swapped)
    (rgb,) = predictor(run_folder).predict_files([files[0]])
    (bgr,) = predictor(run_folder, "INPUT.FORMAT", "BGR").predict_files([swapped])
    assert_same(rgb.instances, bgr.instances)
    np.testing.assert_array_equal(rgb.image, bgr.image[:, :, ::-1])


@pytest.mark.parametrize("order", ["YUV-BT.601", "HSV", "YCbCr"])
def test_files_and_frames_are_seen_in_the_order_of_colours_that_is_set(
    run_folder: Path, files: list[str], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = predictor(run_folder, "INPUT.FORMAT", order)
    frame = np.asarray(Image.open(files[0]))
    monkeypatch.setattr("hiera_det.predict.predictor.read_frames", lambda path, every: [(0, frame)])
    (prediction,) = model.predict_files([files[0]])
    (same,) = model.predict_video("a.mp4")
    assert_same(prediction.instances, same.instances)
    assert np.abs(prediction.image.astype(int) - frame).max() <= 8  # shown in red, green and blue, but for rounding


@pytest.mark.parametrize("batch", [2, 5])
def test_batches_give_each_image_its_own_predictions(run_folder: Path, files: list[str], batch: int) -> None:
    single = {prediction.file: prediction for prediction in predictor(run_folder).predict_files(files)}
    batched = list(predictor(run_folder, "TEST.IMS_PER_BATCH", str(batch)).predict_files(files))
    assert sorted(prediction.file for prediction in batched) == sorted(files)
    for prediction in batched:
        np.testing.assert_array_equal(prediction.image, single[prediction.file].image)
        assert prediction.instances.image_size == single[prediction.file].instances.image_size
    images = [single[file].image for file in files]
    in_order = predictor(run_folder, "TEST.IMS_PER_BATCH", str(batch))(images)
    for file in (files[0], files[3]):  # the two of one size, to which nothing is padded
        together = next(prediction for prediction in batched if prediction.file == file)
        assert_same(together.instances, single[file].instances)
        assert_same(in_order[files.index(file)], single[file].instances)


def test_results_are_cocos_with_names_of_files_and_classes(run_folder: Path, files: list[str]) -> None:
    loaded = predictor(run_folder)
    prediction = next(loaded.predict_files(files))
    results = loaded.coco_results(prediction, image_id=5)
    assert len(results) == len(prediction.instances) > 0
    for index, result in enumerate(results):
        category = CATEGORIES[prediction.instances.pred_classes[index]]
        assert (result["category_id"], result["category_name"]) == (category["id"], category["name"])
        assert (result["image_id"], result["file_name"]) == (5, files[0])
        x, y, width, height = result["bbox"]
        corners = prediction.instances.pred_boxes.tensor[index].tolist()
        assert [x, y, x + width, y + height] == pytest.approx(corners, abs=1e-4)
        mask = coco_mask.decode(result["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, prediction.instances.pred_masks[index].numpy())


def test_the_picture_has_the_images_size_and_its_objects(run_folder: Path, files: list[str]) -> None:
    loaded = predictor(run_folder)
    for prediction in loaded.predict_files(files[:2]):
        drawn = loaded.draw(prediction)
        assert drawn.size == prediction.image.shape[1::-1]
        assert np.abs(np.asarray(drawn, dtype=int) - prediction.image).max() > 0
    prediction = next(predictor(run_folder, threshold=1.0).predict_files(files))
    assert len(prediction.instances) == 0
    np.testing.assert_array_equal(np.asarray(loaded.draw(prediction)), prediction.image)


def test_the_threshold_leaves_out_lower_scores_only(run_folder: Path, files: list[str]) -> None:
    every = next(predictor(run_folder).predict_files(files)).instances
    middle = every.scores.sort().values[len(every) // 2].item()
    fewer = next(predictor(run_folder, threshold=middle).predict_files(files)).instances
    assert_same(fewer, every[every.scores > middle])


def test_photographs_are_turned_upright(run_folder: Path, files: list[str], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files[0]).save(tmp_path / "turned.jpg", exif=exif)
    (prediction,) = predictor(run_folder).predict_files([str(tmp_path / "turned.jpg")])
    assert prediction.instances.image_size == SIZES[0]  # height and width have changed places


@pytest.mark.parametrize("keep", [0, 300])
def test_an_unreadable_image_is_reported_and_the_rest_predicted(
    run_folder: Path, files: list[str], tmp_path: Path, keep: int
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(files[0]).read_bytes()[:keep])
    mixed = [files[0], str(broken), files[1], files[0]]
    reported: list[tuple[str, str]] = []
    for batch in ("1", "3"):
        loaded = predictor(run_folder, "TEST.IMS_PER_BATCH", batch)
        reported.clear()
        found = list(loaded.predict_files(mixed, lambda *report: reported.append(report)))
        assert sorted(prediction.file for prediction in found) == [files[0], files[0], files[1]]
        ((file, reason),) = reported
        assert file == str(broken)
        assert reason
    with pytest.raises(InputError, match=r"broken\.png: cannot be read as an image"):
        list(loaded.predict_files(mixed))


def test_grey_and_transparent_images_are_predicted(run_folder: Path, files: list[str], tmp_path: Path) -> None:
    modes = ("L", "RGBA", "P", "1")
    for mode in modes:
        Image.open(files[0]).convert(mode).save(tmp_path / f"{mode}.png")
    found = list(predictor(run_folder).predict_files([str(tmp_path / f"{mode}.png") for mode in modes]))
    assert [prediction.image.shape for prediction in found] == [(64, 96, 3)] * len(modes)


def test_the_number_format_is_the_configs(run_folder: Path, files: list[str]) -> None:
    loaded = predictor(run_folder, "TEST.AUTOCAST", "bfloat16")
    dtypes = []
    loaded.model.backbone.trunk.register_forward_hook(lambda *call: dtypes.append(call[-1]["stage4"].dtype))
    prediction = next(loaded.predict_files(files))
    assert dtypes == [torch.bfloat16]
    assert prediction.instances.pred_boxes.tensor.dtype == torch.float32
    assert loaded.coco_results(prediction, 1)


def test_without_a_final_model_the_last_checkpoint_is_taken(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((run_folder / "config.yaml").read_bytes())
    with pytest.raises(InputError, match=r"neither model_best\.pth nor model_final\.pth nor another checkpoint"):
        predictor(tmp_path)
    (tmp_path / "model_0000009.pth").write_bytes((run_folder / "model_final.pth").read_bytes())
    assert predictor(tmp_path).cfg.MODEL.WEIGHTS.endswith("model_0000009.pth")
    other = str(run_folder / "model_final.pth")
    assert other == predictor(tmp_path, "MODEL.WEIGHTS", other).cfg.MODEL.WEIGHTS


def test_weights_without_classes_take_those_of_the_registered_data(run_folder: Path, tmp_path: Path) -> None:
    saved = torch.load(run_folder / "model_final.pth", weights_only=True)
    del saved["categories"]
    torch.save(saved, tmp_path / "model.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    coco = predictor(run_folder, *weights, "DATASETS.TEST", "('coco_2017_val',)")
    assert coco.categories[:2] == [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    assert predictor(run_folder, *weights).categories == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda folder: Predictor.from_folder(str(folder / "none")), "there is no config.yaml; give the OUTPUT_DIR"),
        (lambda folder: Predictor(config_of(folder)), "MODEL.WEIGHTS is empty"),
        (lambda folder: Predictor(config_of(folder), str(folder / "no.pth")), r"no\.pth"),
        (lambda folder: predictor(folder, threshold=50.0), "threshold 50.0: scores are from 0 to 1"),
        (lambda folder: predictor(folder, "TEST.AUTOCAST", "float16"), r"TEST\.AUTOCAST float16 needs a GPU"),
        (lambda folder: predictor(folder, "TEST.IMS_PER_BATCH", "0"), r"TEST\.IMS_PER_BATCH 0"),
        (lambda folder: predictor(folder, "MODEL.ROI_HEADS.NUM_CLASSES", "3"), "lacks 6 tensors of the model"),
        (lambda folder: predictor(folder, "MODEL.HIERA.SIZ", "tiny"), "did you mean MODEL.HIERA.SIZE"),
    ],
)
def test_a_mistake_is_told_in_one_line(run_folder: Path, call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        call(run_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_without_a_gpu_it_runs_on_the_cpu(run_folder: Path) -> None:
    assert predictor(run_folder, "MODEL.DEVICE", "cuda").cfg.MODEL.DEVICE == "cpu"


def test_paths_of_every_kind_are_taken(run_folder: Path, files: list[str]) -> None:
    cfg = load_config(str(run_folder / "config.yaml"))
    loaded = Predictor(cfg, run_folder / "model_final.pth", threshold=0.0)
    assert Predictor.from_folder(run_folder).class_names == ["fig", "date"]
    (expected,) = loaded.predict_files([files[0]])
    for one in (files[0], Path(files[0]), [Path(files[0])]):
        (prediction,) = loaded.predict_files(one)
        assert prediction.file == files[0]
        assert_same(prediction.instances, expected.instances)
    assert json.loads(json.dumps(loaded.coco_results(prediction, 1)))


def test_images_in_memory_give_what_the_file_gives(run_folder: Path, files: list[str]) -> None:
    loaded = predictor(run_folder)
    (expected,) = loaded.predict_files(files[0])
    pixels = expected.image
    alpha = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
    same: list[Any] = [
        pixels,
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.int64),
        (pixels / 255).astype(np.float32),
        pixels.astype(np.float64),
        np.dstack([pixels, alpha]),
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1).float() / 255,
        torch.from_numpy(pixels).permute(2, 0, 1).bfloat16(),  # whole numbers up to 256 are exact in it
        torch.from_numpy(pixels).permute(2, 0, 1).float().requires_grad_(),
        pixels[:, ::-1][:, ::-1],
    ]
    for found in loaded(same):
        assert_same(found, expected.instances)
    assert_same(loaded(np.stack([pixels, pixels]))[1], expected.instances)
    assert loaded([]) == []


def test_one_image_or_several_of_every_kind_are_predicted(run_folder: Path, files: list[str]) -> None:
    weights = hiera_det.open_run(run_folder).weights
    (expected,) = predictor(run_folder).predict_files(files[0])
    pixels = expected.image
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for one in (files[0], Path(files[0]), pixels, Image.fromarray(pixels), tensor, tensor / 255):
        found = weights.predict(one, threshold=0.0)
        assert_same(found.instances, expected.instances)
        np.testing.assert_array_equal(found.image, pixels)
        np.testing.assert_array_equal(found.boxes, expected.instances.pred_boxes.tensor.numpy())
    several = weights.predict([pixels, files[0], Image.fromarray(pixels), Path(files[0])], threshold=0.0)
    assert [one.file for one in several] == ["", files[0], "", files[0]]
    for found in [*several, *weights.predict(np.stack([pixels, pixels]), threshold=0.0)]:
        assert_same(found.instances, expected.instances)
    assert weights.predict([], threshold=0.0) == []
    with pytest.raises(InputError, match="images: int; give a path, a PIL image, an array or several"):
        weights.predict(5, threshold=0.0)


def test_grey_images_in_memory_are_those_of_three_equal_channels(run_folder: Path, files: list[str]) -> None:
    loaded = predictor(run_folder)
    grey = np.asarray(Image.open(files[0]).convert("L"))
    (expected,) = loaded([np.dstack([grey] * 3)])
    for image in (grey, grey[..., None], Image.fromarray(grey), torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert_same(loaded([image])[0], expected)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"images: ndarray of shape \(8, 8, 3\) and type uint8; give a list"),
        (Image.new("RGB", (8, 8)), r"images: Image of shape \(8, 8\) and type RGB; give a list"),
        ("a.jpg", "images: str; give a list.*; files go to predict_files"),
        (Path("a.jpg"), "images: PosixPath; give a list.*; files go to predict_files"),
        (None, "images: NoneType; give a list"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 3))], r"images\[1\]: ndarray of shape \(0, 8, 3\).* empty"),
        ([np.zeros((8, 8, 2))], r"images\[0\]: ndarray of shape \(8, 8, 2\) and type float64; give 1, 3 or 4"),
        (
            [torch.zeros(8, 8, 3)],
            r"images\[0\]: Tensor of shape \(8, 8, 3\).*; give 1, 3 or 4 .* first axis of a tensor",
        ),
        ([torch.zeros(3, 8, 8).to_sparse()], r"images\[0\]: Tensor of shape \(3, 8, 8\)"),
        ([np.full((8, 8, 3), -1.0)], r"images\[0\]: .* float64; its pixels are from -1 to -1; scale"),
        ([np.full((8, 8, 3), np.nan)], r"images\[0\]: .*its pixels are from nan"),
        ([np.full((8, 8, 3), 1e5)], r"its pixels are from 100000 to 100000"),
        ([np.zeros((2, 8, 8, 3))], r"images\[0\]: ndarray of shape \(2, 8, 8, 3\)"),
        (["a.jpg"], r"images\[0\]: str; give pixels.*; files go to predict_files"),
        ([np.array([["a"]])], r"images\[0\]: .* its pixels are of type <U1"),
        ([None], r"images\[0\]: NoneType; give pixels"),
    ],
)
def test_what_is_no_image_is_named_with_its_place_shape_and_type(run_folder: Path, images: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        predictor(run_folder)(images)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda one: Predictor("config.yaml"), "cfg: str; give a config, as of load_config, or use Predictor.from_fol"),
        (lambda one: Predictor(one.cfg, one.model), "weights: GeneralizedRCNN; give a path"),
        (lambda one: Predictor(one.cfg, threshold="half"), "threshold half: scores are from 0 to 1"),
        (lambda one: Predictor.from_folder(None), "folder: NoneType; give a path"),
        (lambda one: Predictor.from_folder("a", "TEST.AUTOCAST float32"), "opts 'TEST.AUTOCAST float32': give a dict"),
        (lambda one: Predictor.from_folder("a", {3: 4}), "opts {3: 4}: give a dict"),
        (lambda one: Predictor.from_folder("a", None), "opts None: give a dict"),
        (lambda one: list(one.predict_files(None)), "files: NoneType; give a path or several; images in memory go to"),
        (lambda one: list(one.predict_files(np.zeros((8, 8, 3)))), "files: ndarray; give a path or several"),
        (lambda one: list(one.predict_files(["a.jpg", Image.new("L", (8, 8))])), r"files\[1\]: Image; give a path"),
        (lambda one: list(one.predict_video(5)), "file: int; give a path"),
        (lambda one: list(one.predict_video("a.mp4", every=0)), "every 0: give 1 for each frame"),
    ],
)
def test_an_argument_of_another_type_is_named(run_folder: Path, call: Any, says: str) -> None:
    one = predictor(run_folder)
    with pytest.raises(InputError, match=says) as caught:
        call(one)
    assert "\n" not in str(caught.value)


def test_opts_are_a_dict_or_keys_and_values_in_turn(run_folder: Path, files: list[str]) -> None:
    in_turn = Predictor.from_folder(run_folder, ["TEST.IMS_PER_BATCH", 2, "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.3], 0.0)
    named = Predictor.from_folder(run_folder, {"TEST.IMS_PER_BATCH": 2, "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3}, 0.0)
    assert named.cfg == in_turn.cfg
    assert named.cfg.TEST.IMS_PER_BATCH == 2
    other = {"MODEL.WEIGHTS": str(run_folder / "model_final.pth")}
    assert Predictor(load_config(run_folder / "config.yaml", other)).class_names == ["fig", "date"]


def test_a_model_left_in_training_mode_predicts_as_in_evaluation_and_stays_in_it(
    run_folder: Path, files: list[str]
) -> None:
    loaded = predictor(run_folder)
    (expected,) = loaded.predict_files(files[0])
    loaded.model.train()
    (found,) = loaded.predict_files(files[0])
    assert_same(found.instances, expected.instances)
    assert loaded.model.training
    assert loaded.model.backbone.training
    loaded.model.eval()
    loaded.model.backbone.trunk.train()
    for block in loaded.model.backbone.trunk.blocks:
        block.drop_path.rate = 0.9
    assert_same(loaded([expected.image])[0], expected.instances)
    assert not loaded.model.training
    assert loaded.model.backbone.trunk.training


def test_slivers_in_memory_are_predicted(run_folder: Path) -> None:
    shapes = [(2, 3000), (1, 5000), (5000, 1), (1, 1), (3, 2)]
    found = predictor(run_folder)([np.full((*shape, 3), 90, np.uint8) for shape in shapes])
    assert [instances.image_size for instances in found] == shapes


def test_a_batch_that_fails_is_reported_and_the_rest_predicted(
    run_folder: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = predictor(run_folder)
    predict = loaded._predict_batch
    monkeypatch.setattr(loaded, "_predict_batch", lambda images: fail_if_large(images, predict))
    reported: list[tuple[str, str]] = []
    found = list(loaded.predict_files(files, lambda *report: reported.append(report)))
    assert [prediction.file for prediction in found] == files[:4]
    assert reported == [(files[4], "failed (CUDA out of memory)")]


def fail_if_large(images: Any, predict: Any) -> Any:
    if images[0].shape[0] == 150:
        raise RuntimeError("CUDA out of memory")
    return predict(images)


def test_memory_stays_flat_over_many_images(run_folder: Path, files: list[str]) -> None:
    loaded = predictor(run_folder)
    many = [files[index % 3] for index in range(120)]
    sizes = []
    for number, prediction in enumerate(loaded.predict_files(many)):
        loaded.coco_results(prediction, number)
        if number in (39, 119):
            gc.collect()
            sizes.append(resident_memory())
    assert sizes[1] - sizes[0] < 40


def resident_memory() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_test_time_augmentation_acts_or_is_refused(run_folder: Path, files: list[str]) -> None:
    sizes = ("TEST.AUG.MIN_SIZES", "(64, 96)", "TEST.AUG.MAX_SIZE", "160")
    augmented = predictor(run_folder, "TEST.AUG.ENABLED", "True", *sizes)
    seen = []
    augmented.model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    (plain,), (found,) = predictor(run_folder).predict_files(files[0]), augmented.predict_files(files[0])
    assert sum(shape[0] for shape in seen) >= 4  # two sizes, each mirrored too
    assert len(found.instances)
    assert found.instances.pred_masks.shape[1:] == plain.instances.pred_masks.shape[1:]
    assert not torch.equal(found.instances.scores[:5], plain.instances.scores[:5])
    with pytest.raises(InputError, match=r"TEST\.AUG\.ENABLED True: .*GeneralizedRCNN, which is RetinaNet"):
        predictor(run_folder, "TEST.AUG.ENABLED", "True", "MODEL.META_ARCHITECTURE", "RetinaNet", *sizes)
