"""Pictures at the end of training: predictions beside the ground truth, and the curves of losses and AP.

`draw_predictions` and `draw_curves` can be called on their own; `PictureHook` calls both when training ends. Every
picture is written beside its place and then renamed, so a file that exists is whole. An object has the same colour on
both sides: a prediction takes the colour of the ground-truth object that it overlaps most.

Letters in shapes: N objects of one picture, H and W its height and width.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import check_image_size, convert_image_to_rgb, read_image
from detectron2.engine import HookBase
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from hiera_det.d2.data.batches import model_input
from hiera_det.d2.predict.drawing import (
    PALETTE,
    Mask,
    Objects,
    class_name,
    draw_objects,
    predicted_objects,
)
from hiera_det.engine.sharding import whole
from hiera_det.files import write_atomically

__all__ = ["PictureHook", "draw_curves", "draw_predictions"]

logger = logging.getLogger("hiera_det.pictures")

PANEL_SIDE = 640  # longest side of one panel, pixels
CAPTION_HEIGHT = 30
GAP = 8  # between the two panels
SHEET_COLUMNS = 2
SHEET_CELL = 800  # greatest width of one pair on the sheet, pixels

#: What the right panel of the curves shows: key in metrics.json, label, colour, line.
AP_CURVES = (
    ("bbox/AP", "box AP", "tab:blue", "-"),
    ("bbox/AP50", "box AP50", "tab:cyan", "-"),
    ("segm/AP", "mask AP", "tab:red", "--"),
    ("segm/AP50", "mask AP50", "tab:orange", "--"),
)

Series: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def draw_predictions(
    model: nn.Module,
    dataset_name: str,
    cfg: CfgNode,
    out_dir: str | Path,
    count: int = 8,
    threshold: float = 0.5,
) -> list[Path]:
    """Draw ground truth (left) beside predictions (right) for some images of a registered data set.

    Args:
        model: a detectron2 detector; it predicts in eval mode, and each of its modules gets its own mode back.
        dataset_name: name in the ``DatasetCatalog``.
        cfg: for ``INPUT.FORMAT`` and ``INPUT.MIN_SIZE_TEST``, ``INPUT.MAX_SIZE_TEST``.
        out_dir: gets ``predictions/<index>_<file stem>.jpg``, with the image's index in the data set, and
            ``predictions.png`` with all of them.
        count: number of images, evenly spaced over the data set (fewer where it has fewer).
        threshold: least score of a prediction that is drawn.

    Returns:
        the paths of the single pictures, in the data set's order; the sheet is not among them.

    Raises:
        ValueError: the data set is empty, ``count`` is not positive, an image is not of the size that the data set
            says, or the model predicts no instances.
        OSError: an image cannot be read or a picture cannot be written.
    """
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"data set {dataset_name!r} has no images to draw")
    folder = Path(out_dir) / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    metadata = MetadataCatalog.get(dataset_name)
    digits = len(str(len(records) - 1))
    paths, pairs = [], []
    with _eval_mode(model), torch.inference_mode():
        for index in _evenly_spaced(len(records), count):
            pair = _draw_pair(model, records[index], metadata, cfg, threshold)
            stem = re.sub(r"[^\w.-]+", "_", Path(records[index]["file_name"]).stem, flags=re.ASCII)[:80]
            path = folder / f"{index:0{digits}d}_{stem}.jpg"
            write_atomically(path, partial(pair.save, format="JPEG", quality=90))
            paths.append(path)
            pairs.append(pair)
    sheet = _sheet(pairs)
    write_atomically(folder.with_suffix(".png"), lambda file: sheet.save(file, format="PNG"))
    return paths


def draw_curves(metrics_json: str | Path, out_file: str | Path) -> Path:
    """Draw losses and learning rate (left) and AP (right) over the iterations.

    Args:
        metrics_json: detectron2's ``metrics.json``: one JSON object a line. A line that is cut off is left out; where
            an iteration comes again, as after a resume, the later value counts; NaN leaves a gap.
        out_file: a PNG.

    Returns:
        ``out_file`` as a path.

    Raises:
        OSError: the metrics cannot be read or the picture cannot be written.
    """
    series = _read_metrics(Path(metrics_json))
    figure = Figure(figsize=(13, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, series)
    _draw_ap(right, series)
    right.set_xlim(left.get_xlim() if left.lines else None)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    path = Path(out_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


class PictureHook(HookBase):
    """Draws both kinds of pictures into ``cfg.OUTPUT_DIR`` when training ends, and logs their paths.

    Only the main process draws. Without ``DATASETS.TEST``, and where training stopped early, only curves are drawn.
    A picture that cannot be drawn costs one line in the log, never the training.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def after_train(self) -> None:
        """Called by the trainer, after the last evaluation if this is the last hook."""
        drawn: list[Path] = []
        finished = self.trainer.iter >= self.trainer.max_iter
        if finished and self.cfg.DATASETS.TEST and self.cfg.TEST.PICTURES:
            with whole(self.trainer.model):
                if comm.is_main_process():
                    drawn += _attempt("predictions", self._predictions)
        if not comm.is_main_process():
            return
        drawn += _attempt("curves", self._curves)
        for path in drawn:
            logger.info("pictures: %s", path)

    def _predictions(self) -> list[Path]:
        model = self.trainer.model
        model = getattr(model, "module", model)  # out of DistributedDataParallel
        test, out = self.cfg.TEST, self.cfg.OUTPUT_DIR
        paths = draw_predictions(
            model, self.cfg.DATASETS.TEST[0], self.cfg, out, test.PICTURES, test.PICTURES_THRESHOLD
        )
        return [*paths, Path(out) / "predictions.png"]

    def _curves(self) -> list[Path]:
        folder = Path(self.cfg.OUTPUT_DIR)
        return [draw_curves(folder / "metrics.json", folder / "curves.png")]


def _attempt(what: str, draw: Callable[[], list[Path]]) -> list[Path]:
    """The paths that ``draw`` gives, or none and a line in the log."""
    try:
        return draw()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: out of memory, among others
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logger.warning("%s could not be drawn: %s", what, reason)
        return []


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module is as it was (a frozen part may have been in eval mode all along)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _evenly_spaced(length: int, count: int) -> list[int]:
    """``count`` indices below ``length``, ascending, first and last among them; all where there are not as many."""
    if count < 1:
        raise ValueError(f"count {count}: at least one image is needed")
    return sorted({round(index) for index in np.linspace(0, length - 1, min(count, length))})


def _draw_pair(
    model: nn.Module, record: Mapping[str, Any], metadata: Metadata, cfg: CfgNode, threshold: float
) -> Image.Image:
    image = read_image(record["file_name"], format=cfg.INPUT.FORMAT)  # [H, W, channels]
    check_image_size(record, image)
    size = _panel_size(*image.shape[:2])
    rgb = Image.fromarray(convert_image_to_rgb(image, cfg.INPUT.FORMAT).astype(np.uint8))
    panel = np.asarray(rgb.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    names = metadata.get("thing_classes", None)
    truth = _ground_truth(record.get("annotations", ()), image.shape[:2], size, names)
    found, total = predicted_objects(_predict(model, image, size, cfg), threshold, names)
    colors = _matching_colors(truth.boxes, found.boxes)
    left = draw_objects(panel, truth, [PALETTE[i % len(PALETTE)] for i in range(len(truth.labels))])
    right = draw_objects(panel, found, colors)
    return _side_by_side(
        left,
        right,
        f"ground truth: {len(truth.labels)}",
        f"prediction: {len(found.labels)} of {total} with score >= {threshold:g}",
    )


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a panel; a sliver of an image is drawn thicker than it is."""
    scale = PANEL_SIDE / max(height, width)
    return max(round(height * scale), 16), max(round(width * scale), 16)


def _predict(model: nn.Module, image: npt.NDArray[Any], size: tuple[int, int], cfg: CfgNode) -> Instances:
    """Predictions for an image ``[H, W, channels]``, prepared as by ``DefaultPredictor``, in pixels of ``size``.

    The detector pastes its masks at the size of the panel, so that a large photograph costs no more than a small one.
    """
    (output,) = model([{"image": model_input(cfg, image), "height": size[0], "width": size[1]}])
    if "instances" not in output:
        raise ValueError(f"{type(model).__name__} predicts {', '.join(output) or 'nothing'}, not instances")
    return output["instances"].to("cpu")


def _ground_truth(
    annotations: Sequence[Mapping[str, Any]],
    image_size: tuple[int, int],
    size: tuple[int, int],
    names: Sequence[str] | None,
) -> Objects:
    """The annotations of one image, from ``image_size`` to ``size`` (both height, width)."""
    scale = np.array([size[1] / image_size[1], size[0] / image_size[0]])  # x, y
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    labels = [class_name(a["category_id"], names) + (" (crowd)" if a.get("iscrowd", 0) else "") for a in annotations]
    masks: list[Mask] | None = None
    if any(a.get("segmentation") for a in annotations):
        masks = [_mask(a.get("segmentation"), scale, size) for a in annotations]
    scaled = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * np.tile(scale, 2)
    return Objects(torch.as_tensor(scaled, dtype=torch.float32), labels, masks)


def _mask(segmentation: Any, scale: npt.NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """A COCO segmentation at the panel's size: polygons stay polygons, RLE becomes a map, nothing an empty list."""
    if not segmentation:
        return []
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):  # uncompressed
            rle = coco_mask.frPyObjects(rle, *rle["size"])
        decoded = Image.fromarray(np.ascontiguousarray(coco_mask.decode(rle)))
        return np.asarray(decoded.resize((size[1], size[0]), Image.Resampling.NEAREST))
    return [(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale).reshape(-1) for polygon in segmentation]


def _matching_colors(truth: Tensor, found: Tensor) -> list[tuple[float, float, float]]:
    """Colours for the found boxes: each takes the colour of the true box it overlaps most, the best pairs first.

    Args:
        truth: XYXY ``[N, 4]``; object i is drawn in colour i of the palette.
        found: XYXY ``[M, 4]``; those left over take the colours that follow.
    """
    place: dict[int, int] = {}
    if len(truth) and len(found):
        overlap = pairwise_iou(Boxes(found), Boxes(truth)).numpy()  # [M, N]
        for flat in np.argsort(-overlap, axis=None):
            row, column = divmod(int(flat), len(truth))
            if overlap[row, column] < 0.3:
                break
            if row not in place and column not in place.values():
                place[row] = column
    spare = iter(range(len(truth), len(truth) + len(found)))
    return [PALETTE[(place[row] if row in place else next(spare)) % len(PALETTE)] for row in range(len(found))]


def _side_by_side(left: Image.Image, right: Image.Image, left_caption: str, right_caption: str) -> Image.Image:
    """Both panels with their captions above; a narrow image gets room enough for its caption."""
    column = max(left.width, 340)
    pair = Image.new("RGB", (2 * column + GAP, left.height + CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(pair)
    font = ImageFont.load_default(size=18)
    for x, panel, caption in ((0, left, left_caption), (column + GAP, right, right_caption)):
        draw.text((x + 4, 4), caption, fill="black", font=font)
        pair.paste(panel, (x + (column - panel.width) // 2, CAPTION_HEIGHT))
    return pair


def _sheet(pairs: Sequence[Image.Image]) -> Image.Image:
    """All pairs on one page, row by row."""
    columns = min(SHEET_COLUMNS, len(pairs))
    small = [pair.copy() for pair in pairs]
    for pair in small:
        pair.thumbnail((SHEET_CELL, SHEET_CELL * 9 // 16), Image.Resampling.LANCZOS)
    rows = [small[start : start + columns] for start in range(0, len(small), columns)]
    heights = [max(pair.height for pair in row) + 2 * GAP for row in rows]
    sheet = Image.new("RGB", (columns * (SHEET_CELL + 2 * GAP), sum(heights)), "white")
    for number, row in enumerate(rows):
        for column, pair in enumerate(row):
            sheet.paste(pair, (column * (SHEET_CELL + 2 * GAP) + GAP, sum(heights[:number]) + GAP))
    return sheet


def _read_metrics(path: Path) -> dict[str, Series]:
    """Every number in a metrics.json: its name to iterations and values, ascending, only finite values."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("iteration"), int):
            continue
        iteration = entry.pop("iteration")
        for key, value in entry.items():
            if isinstance(value, int | float):
                values[key][iteration] = float(value)
    series: dict[str, Series] = {}
    for key, by_iteration in values.items():
        points = sorted(by_iteration.items())
        series[key] = (
            np.array([iteration for iteration, _ in points]),
            np.array([value if math.isfinite(value) else math.nan for _, value in points]),
        )
    return series


def _running_median(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Median over a window that grows with the number of values; NaN stays where there is nothing else."""
    half = min(len(values) // 40, 25)
    smooth = values.copy()
    for index in np.flatnonzero(np.isfinite(values)):
        window = values[max(index - half, 0) : index + half + 1]
        smooth[index] = np.median(window[np.isfinite(window)])
    return smooth


def _draw_losses(axes: Axes, series: Mapping[str, Series]) -> None:
    axes.set(title="losses (median) and learning rate", xlabel="iteration", ylabel="loss")
    axes.grid(alpha=0.3)
    names = sorted(key for key in series if "loss" in key and np.isfinite(series[key][1]).any())
    if not names:
        _say(axes, "no losses yet")
    names.sort(key=lambda name: name != "total_loss")
    colors = [f"C{index}" for index in range(10) if index != 7]  # C7, grey, is the learning rate's
    for index, name in enumerate(names):
        iterations, values = series[name]
        color, width = ("black", 2.5) if name == "total_loss" else (colors[index % len(colors)], 1.3)
        marker = "o" if len(values) == 1 else None
        axes.plot(iterations, values, color=color, linewidth=0.8, alpha=0.25)
        axes.plot(iterations, _running_median(values), color=color, linewidth=width, marker=marker, label=name)
    if names:
        axes.set_ylim(bottom=min(0.0, *(np.nanmin(series[name][1]) for name in names)))
        axes.legend(fontsize="small", loc="upper right")
    if "lr" in series:
        twin = axes.twinx()
        twin.plot(*series["lr"], color="C7", linestyle=":", linewidth=1.2)
        twin.set_ylabel("learning rate (dotted)", color="C7")
        twin.tick_params(axis="y", labelcolor="C7")
        twin.set_ylim(bottom=0)
        twin.ticklabel_format(axis="y", scilimits=(-2, 3))
        axes.set_zorder(twin.get_zorder() + 1)  # the legend above the learning rate
        axes.patch.set_visible(False)


def _draw_ap(axes: Axes, series: Mapping[str, Series]) -> None:
    axes.set(title="AP on held-out images", xlabel="iteration", ylabel="AP (%)", ylim=(0, 102))
    axes.grid(alpha=0.3)
    drawn = False
    for suffix, label, color, style in AP_CURVES:
        # With several data sets detectron2 puts the data set's name in front: "name/bbox/AP".
        for key in sorted(name for name in series if name == suffix or name.endswith(f"/{suffix}")):
            iterations, values = (column[np.isfinite(series[key][1])] for column in series[key])
            if not len(values):
                continue
            prefix = key.removesuffix(suffix).replace("/", " ")
            text = f"{prefix}{label}, last {values[-1]:.1f}"
            axes.plot(iterations, values, color=color, linestyle=style, marker="o", markersize=5, label=text)
            drawn = True
    if drawn:
        axes.legend(fontsize="small", loc="best")
    else:
        _say(axes, "no evaluation yet")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=14, color="gray")
