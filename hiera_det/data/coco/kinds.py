"""All that a check of a COCO JSON can find; docs/errors.md is written from this table."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["KINDS", "Kind", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "note"]


class Kind(NamedTuple):
    """One kind of finding.

    Attributes:
        severity: "error": training and evaluation refuse; "warning": they run, and may not do what you want; "note".
        means: what the check has seen, and what would come of it.
        remedy: what to do; some findings have a closer one.
        fixable: whether ``--fix`` mends it.
    """

    severity: Severity
    means: str
    remedy: str = ""
    fixable: bool = False


_E: Severity = "error"
_W: Severity = "warning"
_N: Severity = "note"
_LEFT_OUT = "correct them, or let `hiera-det check ... --fix OUT.json` leave them out"
_REFERENCE = f'{_LEFT_OUT}; an id of the other kind ("2" for 2) it writes as the listed one'
_MENDED = "let `hiera-det check ... --fix OUT.json` mend it"

KINDS: dict[str, Kind] = {
    # The file and its lists
    "json": Kind(_E, "The JSON cannot be read, is no JSON, or is another format's.", "give a COCO instances JSON"),
    "lists": Kind(
        _E,
        "`images`, `annotations` or `categories` is missing, empty or no list of objects.",
        "is this a COCO instances JSON?",
    ),
    "image-folder": Kind(_E, "The image folder does not exist.", "check the spelling"),
    "no-annotations": Kind(
        _E,
        "No annotation to train on or to evaluate with.",
        "training and evaluation need at least one annotated object; of crowd regions alone `--fix` makes objects",
        True,
    ),
    # Categories
    "category": Kind(
        _E,
        "A category has no integer id (below 2^53) or no name.",
        "give each category an integer id and a name; `--fix` writes ids that are texts as integers",
    ),
    "category-twice": Kind(_E, "Two categories in use have the same id or name.", "make them unique"),
    "category-unused-twin": Kind(
        _N,
        "Of categories of one name only one is in use, as Roboflow's exports have a root category; the others are "
        "dropped.",
        "nothing to do; `--fix` takes them out of the JSON",
        True,
    ),
    "category-alike": Kind(
        _N,
        "Names of categories differ by blanks or letter case only; each counts as a class of its own.",
        "if they are one class, give its objects one category id",
    ),
    "category-unused": Kind(_N, "Categories without any annotation; they count as classes all the same."),
    # Images
    "image": Kind(
        _E,
        "An image has no id, file name, width or height that can be used.",
        "images need an id, a file_name, and width and height in pixels; `--fix` takes the sizes of the files",
        True,
    ),
    "image-id-twice": Kind(_E, "Two images have the same id.", "make them unique"),
    "image-id-mixed": Kind(_E, "Some image ids are integers, some texts.", "use one kind"),
    "image-id-inexact": Kind(
        _W,
        "Image ids are texts, or integers beyond 2^53, which other tools mix up or stop at (faster-coco-eval).",
        "let `hiera-det check ... --fix OUT.json` number the images, or evaluate with pycocotools",
        True,
    ),
    "image-file-twice": Kind(
        _W,
        "One file is listed under several image ids: where their annotations differ, each lacks the other's objects.",
        "list it once, with all its annotations",
    ),
    "image-outside": Kind(_E, "A file name is absolute or leads out of the image folder.", "make it relative to it"),
    "image-missing": Kind(
        _E,
        "Image files are not in the image folder.",
        "copy them there, or give the folder that file_name is relative to",
    ),
    "image-named-otherwise": Kind(
        _E,
        "The file is there under another name: letter case, ending, Unicode form, %20, backslashes, leading folders.",
        "let `hiera-det check ... --fix OUT.json` write the names as the files have them",
        True,
    ),
    "image-folder-off": Kind(_E, "The file names start from another folder.", "give that folder"),
    "image-link": Kind(
        _N,
        "Image files are links that lead out of the image folder. Links are followed: whoever can write into the "
        "folder decides what is read.",
    ),
    "image-unreadable": Kind(_E, "A file is no image, or damaged.", "replace it, or take it out of the JSON"),
    "image-damaged": Kind(
        _E,
        "An image's header is sound but not its pixels, as of a file that was cut off while being copied (`--pixels`).",
        "copy it anew, or take it out of the JSON",
    ),
    "image-full": Kind(
        _W,
        "An image has more objects than a detector gives for one: the others count as missed.",
        "set TEST.DETECTIONS_PER_IMAGE to at least as many",
    ),
    "image-transparent": Kind(_N, "Images with an alpha channel or a transparent colour; they are laid on white."),
    "image-deep": Kind(_N, "Images of more than 8 bits a pixel; they are scaled to 8."),
    "image-dark": Kind(
        _W,
        "Images of 16 bits a pixel hold numbers of 12 bits or fewer, as cameras and scanners write them: the high "
        "byte, which is kept, is nearly black.",
        "multiply their pixels by 16 for 12 bits, by 64 for 10, and keep them as 16 bits",
    ),
    "image-size": Kind(
        _E,
        "Files have another size than the JSON says.",
        "write the files' sizes into the JSON and scale its boxes with them; where width and height are exchanged and "
        "the boxes lie in the file, `--fix` does so",
        True,
    ),
    "image-headers-sampled": Kind(_N, "Only a sample of the image files was looked into."),
    "image-no-annotation": Kind(_N, "Images without annotation are trained on as negatives."),
    "image-crowd-only": Kind(_N, "Images with crowd regions only are trained on as negatives."),
    # Annotations
    "annotation-keys": Kind(
        _E,
        "An annotation is no object or lacks a key.",
        "it needs id, image_id, category_id and bbox; `--fix` takes a missing box of the mask",
        True,
    ),
    "annotation-id": Kind(_E, "An annotation's id is no integer below 2^63.", "number the annotations"),
    "annotation-id-twice": Kind(_E, "Annotation ids occur more than once.", f"make them unique, or {_MENDED}", True),
    "annotation-image": Kind(_E, "An annotation names an image that is not listed.", _REFERENCE, True),
    "annotation-category": Kind(_E, "An annotation names a category that is not listed.", _REFERENCE, True),
    "annotation-ignore": Kind(
        _E, "The key `ignore` is set; detectron2 does not know it.", "use 'iscrowd': 1 or remove the annotation"
    ),
    "annotation-crowd": Kind(_E, "`iscrowd` is neither 0 nor 1.", "set it to 0 or 1"),
    "annotation-keypoints": Kind(
        _E, "`keypoints` is no list of three numbers a point.", "remove the key or write [x, y, visibility, ...]"
    ),
    "annotation-repeated": Kind(
        _W,
        "Annotations repeat another one: same image, category, box and mask. Perfect answers then stay below 100.",
        "remove them, or let `hiera-det check ... --fix OUT.json` leave the second ones out",
        True,
    ),
    "annotation-misspelt": Kind(
        _W, "A key looks like a misspelt one, and nothing reads it.", f"rename it, or {_MENDED}", True
    ),
    "annotation-other": Kind(_E, "An annotation is not as COCO has them.", "compare it with another one"),
    "crowd-regions": Kind(_N, "Crowd regions are not trained on; detections in them are not counted as wrong."),
    "crowd-brush": Kind(
        _W,
        "Masks in run lengths are crowd regions, as CVAT and Datumaro write what is drawn with a brush: nothing is "
        "learned of these objects.",
        "where each is one object, set iscrowd to 0, as `hiera-det check ... --fix OUT.json` does",
        True,
    ),
    "crowd-no-mask": Kind(
        _N,
        "Crowd regions without a mask: evaluation of masks takes their boxes.",
        "nothing to do; `--fix` writes them",
        True,
    ),
    "empty": Kind(
        _W,
        "Annotations with neither a box that has an area nor a mask. They are left out of training and evaluation; "
        "other tools count them as missed objects, so that perfect answers stay below 100.",
        "remove them, or let `hiera-det check ... --fix OUT.json` leave them out",
        True,
    ),
    # Boxes
    "box": Kind(
        _E,
        "`bbox` is not four finite numbers.",
        "write [x, y, width, height]; an empty one `--fix` takes of the mask, or leaves the annotation out",
        True,
    ),
    "box-absurd": Kind(_E, "A box lies more than ten image sides outside its image.", _LEFT_OUT, True),
    "box-no-area": Kind(
        _W,
        "A box has no area though its annotation has a mask: dropped in training, counted as missed in evaluation.",
        "let `hiera-det check ... --fix OUT.json` take the box of the mask",
        True,
    ),
    "box-unlike-mask": Kind(
        _W,
        "Boxes are not those of their masks. Most often the boxes are in another form, such as [centre x, centre y, "
        "width, height], or the RLE's counts run along rows; polygons are seldom wrong.",
        "look at `--pictures OUT.png`, then write boxes as [x, y, width, height], and RLEs by columns",
    ),
    "box-outside": Kind(_N, "Boxes leave their image by more than a pixel."),
    "box-xyxy": Kind(
        _W,
        "Boxes leave their image, and lie in it when read as [x1, y1, x2, y2].",
        "look at `--pictures OUT.png`; COCO boxes are [x, y, width, height]",
    ),
    "box-centre": Kind(
        _W,
        "Boxes leave their image, and lie in it when read as [centre x, centre y, width, height].",
        "look at `--pictures OUT.png`; COCO boxes are [x, y, width, height] with the upper left corner",
    ),
    "box-mostly-outside": Kind(
        _W,
        "Most boxes leave their image, in whatever form they are read.",
        "look at `--pictures OUT.png`: are the images of another size than those that were annotated?",
    ),
    "box-fractions": Kind(
        _W,
        "Most boxes lie within one pixel, as fractions of the image do.",
        "multiply x and width by the image's width, y and height by its height; YOLO's x and y are the box's centre",
    ),
    "box-percent": Kind(
        _W,
        "All boxes lie within the first 100 pixels of images that are much larger, as percent of the image do.",
        "look at `--pictures OUT.png`; multiply x and width by the image's width, y and height by its height, over 100",
    ),
    # Masks
    "mask-kind": Kind(
        _E, "`segmentation` is no list of polygons and no RLE.", "write [[x1, y1, x2, y2, x3, y3, ...]] or an RLE"
    ),
    "polygon-pairs": Kind(
        _E,
        "A polygon is a list of [x, y] pairs, or stands without a list of polygons around it.",
        "write [[x1, y1, x2, y2, x3, y3, ...]], or let `hiera-det check ... --fix OUT.json` do so",
        True,
    ),
    "polygon-points": Kind(
        _E,
        "A polygon has fewer than three points, or half a point. (pycocotools takes four numbers for a box.)",
        "it needs at least three points [x1, y1, x2, y2, x3, y3, ...]; `hiera-det check ... --fix OUT.json` writes the "
        "box where the four numbers are it, and takes other such polygons out",
        True,
    ),
    "polygon-numbers": Kind(_E, "A polygon holds something that is not a finite number.", "correct or remove it"),
    "polygon-absurd": Kind(_E, "A polygon leads more than ten image sides out of its image.", _LEFT_OUT, True),
    "polygon-outside": Kind(_W, "Polygons lie wholly outside their image.", _LEFT_OUT, True),
    "polygon-no-area": Kind(_W, "Masks of polygons without area (a line, a point).", _LEFT_OUT, True),
    "rle": Kind(
        _E, "An RLE has no size, the wrong size, or counts that cannot be read or do not fill it.", "write it anew"
    ),
    "mask-missing": Kind(
        _N,
        "Some annotations have no mask, others have. Training of masks refuses: each object needs one.",
        "add them, add MODEL.MASK_ON False to train boxes only, or let `hiera-det check ... --fix OUT.json` leave "
        "these annotations out",
        True,
    ),
    # Areas, which evaluation sorts objects into small, medium and large by
    "area-unusable": Kind(
        _N,
        "`area` is null, no number, negative or above 10^10; the mask's is taken.",
        "nothing to do; `--fix` writes it",
        True,
    ),
    "area-differs": Kind(
        _W,
        "`area` is less than half or more than twice the mask's: objects count as small, medium or large by it.",
        "let `hiera-det check ... --fix OUT.json` write the masks' areas",
        True,
    ),
    # Two JSONs
    "split-same": Kind(
        _W, "Training and evaluation have images in common: AP then says nothing about other images.", "split the data"
    ),
    "split-classes": Kind(
        _E, "The JSONs of training and evaluation have other classes.", "give both the same 'categories' list"
    ),
    "split-order": Kind(
        _N,
        "The JSON of evaluation has the same classes in another order.",
        "nothing to do: the order is that of the training's JSON, and evaluation goes by name",
    ),
}
