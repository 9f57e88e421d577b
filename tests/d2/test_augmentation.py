"""Large-scale jitter: the draws, and annotations that stay with their objects."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.detection_utils import build_augmentation as detectron2_augmentation
from detectron2.data.samplers import TrainingSampler
from detectron2.data.transforms import AugInput, AugmentationList, NoOpTransform
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, BoxMode, Instances
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.events import EventStorage
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.augmentation import build_augmentation, check_lsj
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
WIDTH, HEIGHT, SIZE = 120, 80, 64
#: One object per colour channel, which is its class: a hexagon, an angle and a small square.
SHAPES: tuple[list[float], ...] = (
    [8, 40, 24, 8, 44, 8, 60, 40, 44, 72, 24, 72],
    [70, 10, 112, 10, 112, 70, 98, 70, 98, 24, 70, 24],
    [2, 2, 20, 2, 20, 20, 2, 20],
)


def jitter_config(*opts: str) -> CfgNode:
    """Large-scale jitter at a size for small images."""
    return plain_config("INPUT.LSJ.ENABLED", "True", "INPUT.LSJ.SIZE", str(SIZE), *opts)


def plain_config(*opts: str) -> CfgNode:
    """detectron2's resizing."""
    return load_config(str(CONFIGS / "mask_rcnn_hiera_t_1x.yaml"), ["MODEL.DEVICE", "cpu", *opts])


@pytest.mark.parametrize(
    ("opts", "jitter", "pad"),
    [
        ([], True, 1024),
        (["INPUT.MIN_SIZE_TRAIN", "(320,)"], False, 0),
        (["INPUT.MAX_SIZE_TRAIN", "500", "MODEL.HIERA.SQUARE_PAD", "512"], False, 512),
        (["INPUT.MIN_SIZE_TEST", "320"], True, 1024),
    ],
)
def test_training_sizes_set_over_jitter_take_its_place(
    opts: list[str], jitter: bool, pad: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="hiera_det"):
        cfg = load_config(str(CONFIGS / "mask_rcnn_hiera_t.yaml"), opts)
    assert (jitter, pad) == (cfg.INPUT.LSJ.ENABLED, cfg.MODEL.HIERA.SQUARE_PAD)
    assert ("no large-scale jitter" in caplog.text) == (not jitter)


def annotation(category: int, polygon: list[float], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    points = np.asarray(polygon).reshape(-1, 2)
    segmentation: Any = [list(map(float, polygon))]
    if kind == "rle":
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH))
    box = [*points.min(0).tolist(), *points.max(0).tolist()]
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "segmentation": segmentation, **more}


def record(folder: Path, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """An image of the shapes, each in its own channel, and its annotations."""
    channels = [polygons_to_bitmask([np.array(shape)], HEIGHT, WIDTH) * np.uint8(250) for shape in SHAPES]
    Image.fromarray(np.stack(channels, axis=-1)).save(folder / "shapes.png")
    return {"file_name": str(folder / "shapes.png"), "width": WIDTH, "height": HEIGHT, "annotations": annotations}


def shapes(folder: Path, kind: str) -> dict[str, Any]:
    return record(folder, [annotation(index, shape, kind) for index, shape in enumerate(SHAPES)])


def mask_opts(kind: str) -> tuple[str, str]:
    return "INPUT.MASK_FORMAT", "polygon" if kind == "polygon" else "bitmask"


def bitmaps(instances: Instances) -> torch.Tensor:
    """The masks of both kinds, ``[N, H, W]``."""
    masks = instances.gt_masks
    if isinstance(masks, BitMasks):
        return masks.tensor
    return torch.as_tensor(np.stack([polygons_to_bitmask(one, *instances.image_size) for one in masks.polygons]))


def grown(mask: torch.Tensor) -> torch.Tensor:
    """A mask ``[H, W]`` and the pixels around it."""
    return torch.nn.functional.max_pool2d(mask[None].float(), 3, stride=1, padding=1)[0].bool()


def extent(shown: torch.Tensor) -> torch.Tensor:
    """The box, XYXY, around the true pixels ``[H, W]``."""
    y, x = torch.where(shown)
    return torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])


@pytest.mark.parametrize("kind", ["polygon", "rle", "both"])
@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_masks_stay_on_their_objects_and_boxes_around_their_masks(kind: str, flip: str, tmp_path: Path) -> None:
    mapper = build_train_mapper(jitter_config(*mask_opts(kind), "INPUT.RANDOM_FLIP", flip))
    data = shapes(tmp_path, "rle" if kind == "rle" else "polygon")
    if kind == "both":
        data["annotations"][1] = annotation(1, SHAPES[1], "rle")
    found = 0
    for seed in range(60):
        np.random.seed(seed)
        sample = mapper(data)
        height, width = sample["image"].shape[1:]
        assert max(height, width) <= SIZE
        instances = sample["instances"]
        assert instances.image_size == (height, width)
        if not len(instances):
            continue
        boxes, masks = instances.gt_boxes.tensor, bitmaps(instances)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        torch.testing.assert_close(boxes, instances.gt_masks.get_bounding_boxes().tensor)
        for box, mask, category in zip(boxes, masks, instances.gt_classes.tolist(), strict=True):
            shown = sample["image"][category] > 125  # the object's own channel
            if min(height, width) < 24 or shown.sum() < 60:
                continue  # too small to count pixels
            found += 1
            assert (mask <= grown(shown)).all()  # a pixel at the edge may be either
            assert (shown <= grown(mask)).all()
            surely, perhaps = (extent(sample["image"][category] > least) for least in (240, 0))
            inner = torch.stack([box[:2] - surely[:2], surely[2:] - box[2:]])
            outer = torch.stack([perhaps[:2] - box[:2], box[2:] - perhaps[2:]])
            assert max(inner.max(), outer.max()) <= 1
    assert found > 60


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_an_object_that_the_crop_takes_whole_is_left_out_and_one_in_part_is_not(kind: str, tmp_path: Path) -> None:
    mapper = build_train_mapper(jitter_config(*mask_opts(kind), "INPUT.LSJ.SCALE", "[2.0, 2.0]"))
    data = shapes(tmp_path, kind)
    kept = set()
    for seed in range(30):
        np.random.seed(seed)
        sample = mapper(data)
        classes = sample["instances"].gt_classes.tolist()
        visible = {index for index in range(3) if (sample["image"][index] > 200).sum() > 4}
        assert visible <= set(classes)
        assert all((sample["image"][index] > 30).any() for index in classes)
        kept.add(tuple(classes))
    assert len(kept) > 2


def test_without_masks_boxes_are_clipped(tmp_path: Path) -> None:
    mapper = build_train_mapper(jitter_config("MODEL.MASK_ON", "False", "INPUT.LSJ.SCALE", "[1.5, 2.0]"))
    data = shapes(tmp_path, "polygon")
    for seed in range(20):
        np.random.seed(seed)
        sample = mapper(data)
        assert not sample["instances"].has("gt_masks")
        boxes = sample["instances"].gt_boxes.tensor
        height, width = sample["image"].shape[1:]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_crowds_are_left_out(tmp_path: Path) -> None:
    mapper = build_train_mapper(jitter_config("INPUT.MASK_FORMAT", "bitmask", "INPUT.LSJ.SCALE", "[1.0, 1.0]"))
    data = shapes(tmp_path, "rle")
    data["annotations"][0]["iscrowd"] = 1
    assert sorted(mapper(data)["instances"].gt_classes.tolist()) == [1, 2]


@pytest.mark.parametrize("kind", ["polygon", "rle"])
@pytest.mark.parametrize("crop", ["jitter", "detectron2's"])
def test_images_without_objects_are_trained_on(kind: str, crop: str, tmp_path: Path) -> None:
    own = ["INPUT.CROP.ENABLED", "True", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    small = ["MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]", "MODEL.FPN.OUT_CHANNELS", "16"]
    small += ["MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"]
    opts = [*mask_opts(kind), *small]
    cfg = jitter_config(*opts) if crop == "jitter" else plain_config(*opts, *own)
    mapper = build_train_mapper(cfg)
    crowd = annotation(0, SHAPES[0], "rle", iscrowd=1)
    gone = annotation(0, [0, 0, 0, 40, 0, 60], "polygon")  # a line at the edge
    samples = [mapper(record(tmp_path, annotations)) for annotations in ([], [crowd], [gone])]
    assert [len(sample["instances"]) for sample in samples] == [0, 0, 0]
    model = build_model(cfg)
    with EventStorage():
        losses = model([*samples, mapper(shapes(tmp_path, kind))])
    assert torch.isfinite(sum(losses.values()))


def test_draws_cover_their_ranges_and_no_more(tmp_path: Path) -> None:
    augmentations = AugmentationList(build_augmentation(jitter_config()))
    flips, scales, places = [], [], []
    for seed in range(300):
        np.random.seed(seed)
        image = AugInput(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        flip, resize, crop = augmentations(image).transforms
        flips.append(not isinstance(flip, NoOpTransform))
        scales.append(resize.new_w / SIZE)
        assert resize.new_h == pytest.approx(resize.new_w * HEIGHT / WIDTH, abs=1)
        spare = resize.new_w - SIZE
        assert 0 <= crop.x0 <= max(0, spare)
        assert image.image.shape[:2] == (min(resize.new_h, SIZE), min(resize.new_w, SIZE))
        if spare > 30:
            places.append(crop.x0 / spare)
    assert 0.4 < np.mean(flips) < 0.6
    assert 0.09 < min(scales) < 0.15
    assert 1.95 < max(scales) < 2.01
    assert np.mean(scales) == pytest.approx(1.05, abs=0.1)
    assert min(places) < 0.1
    assert max(places) > 0.9


@pytest.mark.parametrize(("flip", "left_right", "up_down"), [("none", 0, 0), ("horizontal", 1, 0), ("vertical", 0, 1)])
def test_the_flip_is_the_one_asked_for(flip: str, left_right: int, up_down: int) -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:20, :20] = 255  # left top
    seen = set()
    for seed in range(20):
        np.random.seed(seed)
        augmented = AugInput(image)
        one = jitter_config("INPUT.RANDOM_FLIP", flip, "INPUT.LSJ.SCALE", "[1.0, 1.0]")
        AugmentationList(build_augmentation(one))(augmented)
        corners = [(x, y) for x in (0, 1) for y in (0, 1) if augmented.image[-y, -x].all()]
        seen.update(corners)
    assert seen == {(0, 0), (left_right, up_down)}


def test_a_sliver_of_an_image_keeps_a_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (400, 1)).save(tmp_path / "sliver.png")
    data = {"file_name": str(tmp_path / "sliver.png"), "annotations": [annotation(0, [0, 0, 9, 0, 9, 1])]}
    mapper = build_train_mapper(jitter_config("INPUT.LSJ.SCALE", "[0.1, 0.1]"))
    assert mapper(data)["image"].shape == (3, 1, 6)


def test_a_polygon_that_crosses_itself_stays_whole_where_nothing_is_cropped(tmp_path: Path) -> None:
    bow_tie = [10.0, 10, 50, 40, 50, 10, 10, 40]
    mapper = build_train_mapper(jitter_config("INPUT.LSJ.SCALE", "[1.0, 1.0]", "INPUT.RANDOM_FLIP", "none"))
    (polygons,) = mapper(record(tmp_path, [annotation(0, bow_tie)]))["instances"].gt_masks.polygons
    np.testing.assert_allclose(polygons, [np.array(bow_tie) * SIZE / WIDTH], rtol=0.02)


def test_a_polygon_beyond_the_image_ends_where_the_image_does(tmp_path: Path) -> None:
    beyond = [100.0, 20, WIDTH + 30, 20, WIDTH + 30, 60, 100, 60]
    mapper = build_train_mapper(jitter_config("INPUT.LSJ.SCALE", "[0.5, 0.5]", "INPUT.RANDOM_FLIP", "none"))
    sample = mapper(record(tmp_path, [annotation(0, beyond)]))
    assert sample["instances"].gt_boxes.tensor[0, 2] == sample["image"].shape[2] == SIZE / 2


def test_workers_draw_differently(tmp_path: Path) -> None:
    loader = build_detection_train_loader(
        [shapes(tmp_path, "polygon")],
        mapper=build_train_mapper(jitter_config()),
        sampler=TrainingSampler(1, seed=0),
        total_batch_size=1,
        aspect_ratio_grouping=False,
        num_workers=2,
    )
    batches = iter(loader)
    (first,), (second,) = next(batches), next(batches)  # one from each worker
    assert first["file_name"] == second["file_name"]
    assert first["image"].shape != second["image"].shape or not torch.equal(first["image"], second["image"])


def test_without_jitter_the_mapper_is_detectron2s() -> None:
    cfg = load_config(str(CONFIGS / "mask_rcnn_hiera_t_1x.yaml"))
    ours, theirs = build_train_mapper(cfg), DatasetMapper(cfg, True)
    assert repr(build_augmentation(cfg)) == repr(detectron2_augmentation(cfg, True))
    augmentations = repr(ours.augmentations.augs), repr(theirs.augmentations.augs)
    assert augmentations[0] == augmentations[1]
    assert {key for key, value in vars(theirs).items() if vars(ours)[key] != value} == {"augmentations"}


def test_only_augmentation_and_boxes_differ_from_detectron2s_mapper() -> None:
    cfg = jitter_config("INPUT.FORMAT", "BGR", "INPUT.MASK_FORMAT", "bitmask")
    ours, theirs = (vars(mapper) for mapper in (build_train_mapper(cfg), DatasetMapper(cfg, True)))
    assert {key for key in theirs if ours[key] != theirs[key]} == {"augmentations", "recompute_boxes"}
    assert ours["recompute_boxes"] is True
    cfg.MODEL.MASK_ON = False
    assert build_train_mapper(cfg).recompute_boxes is False


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["INPUT.LSJ.SIZE", "0"], "INPUT.LSJ.SIZE 0: .* a multiple of 32"),
        (["INPUT.LSJ.SIZE", "-64"], "INPUT.LSJ.SIZE -64"),
        (["INPUT.LSJ.SIZE", "100"], "INPUT.LSJ.SIZE 100"),
        (["INPUT.LSJ.SCALE", "[2.0, 0.1]"], r"INPUT.LSJ.SCALE \[2.0, 0.1\]: give two positive numbers"),
        (["INPUT.LSJ.SCALE", "[0.0, 1.0]"], "INPUT.LSJ.SCALE"),
        (["INPUT.LSJ.SCALE", "[1.0]"], "INPUT.LSJ.SCALE"),
        (["INPUT.LSJ.SCALE", "['a', 'b']"], "INPUT.LSJ.SCALE"),
        (["MODEL.HIERA.SQUARE_PAD", "32"], "MODEL.HIERA.SQUARE_PAD 32 is smaller than INPUT.LSJ.SIZE 64"),
        (["INPUT.RANDOM_FLIP", "both"], "INPUT.RANDOM_FLIP 'both': choose horizontal, vertical or none"),
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(opts: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        check_lsj(jitter_config(*opts))
    assert "\n" not in str(caught.value)


def test_settings_of_a_jitter_that_is_off_do_not_matter_but_the_flip_does() -> None:
    with pytest.raises(InputError, match=r"INPUT\.RANDOM_FLIP 'both'"):
        build_train_mapper(plain_config("INPUT.RANDOM_FLIP", "both"))
    cfg = plain_config()
    cfg.INPUT.LSJ.SIZE = 1
    check_lsj(cfg)


def test_a_missing_shapely_is_named_where_there_are_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(InputError, match="pip install shapely"):
        check_lsj(jitter_config())
    check_lsj(jitter_config("MODEL.MASK_ON", "False"))


def test_records_are_left_as_they_were(tmp_path: Path) -> None:
    data = shapes(tmp_path, "polygon")
    before = json.dumps(data)
    build_train_mapper(jitter_config())(data)
    assert json.dumps(data) == before
