"""Pascal VOC's data sets: an XML of boxes per image.

VOC counts pixels from 1 and its boxes hold their last pixel, so that xmin 1 and xmax W are the whole width. Some tools
count from 0: where a box begins at 0, all of the data set are taken so, and the notes say it.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from hiera_det.data.convert.build import CocoBuilder, image_of, read_class_names, read_text
from hiera_det.errors import InputError

__all__ = ["convert_voc"]


@dataclass(frozen=True)
class _Object:
    name: str
    corners: tuple[float, float, float, float]
    polygon: list[float]
    is_difficult: bool


@dataclass(frozen=True)
class _Image:
    path: str  # of the XML
    file_name: str
    size: tuple[str | None, str | None]
    objects: list[_Object]


def convert_voc(source: str, *, split: str | None = None, classes: str | None = None) -> CocoBuilder:
    """A VOC data set, or one split of it.

    Args:
        source: the folder with ``Annotations`` and ``JPEGImages``, or one of XMLs with their images beside them.
        split: a list in ``ImageSets/Main``; None for all. Classes are those of all XMLs either way.
        classes: a file of class names, which fixes their order; by default it is the alphabet's.

    Raises:
        InputError: something is not there, or an XML cannot be read; names the file.
    """
    folder = os.path.join(source, "Annotations")
    folder = folder if os.path.isdir(folder) else source
    images = os.path.join(source, "JPEGImages") if os.path.isdir(os.path.join(source, "JPEGImages")) else folder
    stems = sorted(name[:-4] for name in os.listdir(folder) if name.lower().endswith(".xml"))
    if not stems:
        raise InputError(f"{folder}: there are no XMLs in it")
    read = {stem: _read(os.path.join(folder, f"{stem}.xml")) for stem in stems}
    # Classes of all XMLs even for a split: those of training and validation must be the same.
    found = sorted({entry.name for image in read.values() for entry in image.objects})
    names = read_class_names(classes) if classes else found
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"{classes}: lacks the class {unknown[0]!r} of {folder}; add it")
    # One convention for all of a data set: a single box at 0 shows that its tool counts from 0.
    first = 0 if any(min(e.corners[:2]) < 1 for image in read.values() for e in image.objects) else 1
    builder = CocoBuilder(images, names)
    builder.notes[f"box taken to count pixels from {first}"] = sum(len(image.objects) for image in read.values())
    for stem in _listed(source, split) if split else stems:
        if stem not in read:
            raise InputError(f"{os.path.join(folder, stem)}.xml: is in the list of {split!r}, but not there")
        _add(builder, images, stem, read[stem], first)
    return builder


def _listed(source: str, split: str) -> list[str]:
    lines = read_text(os.path.join(source, "ImageSets", "Main", f"{split}.txt")).splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _add(builder: CocoBuilder, images: str, stem: str, image: _Image, first: int) -> None:
    file_name = image.file_name
    named = os.path.join(images, os.path.basename(file_name.replace("\\", "/")))
    path = named if file_name and os.path.isfile(named) else image_of(os.path.join(images, stem))
    if path is None:
        raise InputError(f"{images}: has no image of {stem}.xml (file name there: {file_name!r})")
    builder.add_image(path, image.size, image.path)
    for entry in image.objects:
        left, top, right, bottom = entry.corners
        if entry.is_difficult:
            builder.notes["difficult object kept as a crowd region"] += 1
        if entry.polygon:
            builder.add_polygons(entry.name, [entry.polygon], crowd=entry.is_difficult)
        else:
            box = [left - first, top - first, right - left + first, bottom - top + first]
            builder.add_box(entry.name, box, crowd=entry.is_difficult)


def _read(path: str) -> _Image:
    """What an XML says of its image.

    Raises:
        InputError: it is no VOC annotation, or declares entities, which can be made to take all memory.
    """
    text = read_text(path)
    # Entities within entities grow without bound; older parsers expand them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: declares a document type, which no VOC annotation needs; remove it")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: not valid XML ({error})") from None
    if root.tag != "annotation":
        tag = root.tag[:40]
        raise InputError(f"{path}: begins with <{tag}>, VOC's with <annotation>; of CVAT, export COCO or Pascal VOC")
    size = root.findtext("size/width"), root.findtext("size/height")
    objects = [_object(element, path) for element in root.iter("object")]
    return _Image(path, (root.findtext("filename") or "").strip(), size, objects)


def _object(element: ET.Element, path: str) -> _Object:
    name = (element.findtext("name") or "").strip()
    try:
        box = element.find("bndbox")
        left, top, right, bottom = (
            float((box.findtext(key) if box is not None else None) or "") for key in ("xmin", "ymin", "xmax", "ymax")
        )
        outline = element.find("polygon")
        points = {} if outline is None else {child.tag: float(child.text or "") for child in outline}
    except ValueError:
        raise InputError(f"{path}: the box of {name!r} is not xmin, ymin, xmax, ymax in numbers") from None
    if not name or not (0 <= left <= right < 1e6 and 0 <= top <= bottom < 1e6):
        raise InputError(f"{path}: an object needs a name and a box of xmin <= xmax, ymin <= ymax: {name!r}")
    count = sum(tag.startswith("x") for tag in points)
    polygon = [points.get(f"{axis}{i}", float("nan")) for i in range(1, count + 1) for axis in "xy"]
    if count and not (count >= 3 and all(abs(value) < 1e6 for value in polygon)):
        raise InputError(f"{path}: the polygon of {name!r} is not x1, y1, x2, y2, ... of three points and more")
    return _Object(name, (left, top, right, bottom), polygon, (element.findtext("difficult") or "0").strip() == "1")
