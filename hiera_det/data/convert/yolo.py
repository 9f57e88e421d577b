"""YOLO's data sets: an image folder, a text of labels per image, and the classes in data.yaml.

A line of a label file is a class number and a box (centre, size) or a polygon, all as fractions of the image. Labels
are in the folder whose path is that of the images with ``labels`` in the place of ``images``, or beside the image.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from hiera_det.data.convert.build import CocoBuilder, Size, image_of, images_in, read_class_names, read_text
from hiera_det.errors import InputError
from hiera_det.extras import need

__all__ = ["convert_yolo"]

#: By how much of the image a coordinate may leave it: tools round outwards.
SLACK = 0.05


def convert_yolo(source: str, *, split: str = "train", classes: str | None = None) -> CocoBuilder:
    """One split of a YOLO data set.

    Args:
        source: the folder with data.yaml (or classes.txt), or data.yaml itself.
        split: "train", "val" or "test": a key of data.yaml, or a folder.
        classes: a file of class names, in the place of data.yaml's.

    Raises:
        InputError: something is not there, or a label cannot be read; names file and line.
    """
    yaml_file, root = _yaml_file(source)
    settings = _settings(yaml_file) if yaml_file else {}
    names = read_class_names(classes) if classes else _names(settings, yaml_file, root)
    files = _images(settings, root, split)
    common = os.path.commonpath([os.path.dirname(file) for file in files]) or os.curdir
    builder = CocoBuilder(common, names)
    label_files = {file: _label_file(file) for file in files}
    if not any(map(os.path.isfile, label_files.values())):
        said = f"none of the {len(files)} images of {split!r} has a label file (looked for {label_files[files[0]]})"
        raise InputError(f"{common}: {said}; labels belong in a folder 'labels' beside 'images', or beside each image")
    _note_oddities(builder, settings, set(label_files.values()))
    for file, labels in label_files.items():
        size = builder.add_image(file)
        if not os.path.isfile(labels):
            builder.notes["image without a label file: no objects"] += 1
            continue
        for number, line in enumerate(read_text(labels).splitlines(), start=1):
            if line.strip():
                words = line.split()
                if "kpt_shape" in settings:  # keypoints follow the box, and would be taken for a polygon's corners
                    builder.notes["keypoints left out: boxes are converted"] += len(words) > 5
                    words = words[:5]
                _add(builder, words, size, f"{labels}:{number}")
    return builder


def _note_oddities(builder: CocoBuilder, settings: dict[str, Any], label_files: set[str]) -> None:
    """Say what does not fit together: the number of classes, labels of no image."""
    number, names = settings.get("nc"), builder.class_names
    if number is not None and str(number) != str(len(names)):
        builder.notes[f"nc is {str(number)[:20]} where there are {len(names)} names; the names count"] += 1
    for folder in sorted(set(map(os.path.dirname, label_files))):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            if name.endswith(".txt") and path not in label_files and _is_label_without_image(path):
                builder.notes["label file without an image: left out"] += 1


def _is_label_without_image(path: str) -> bool:
    parts = list(Path(path).with_suffix("").parts)
    stems = [str(Path(*parts))]
    if "labels" in parts:
        parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
        stems.append(str(Path(*parts)))
    if any(map(image_of, stems)):  # of another split
        return False
    try:  # beside images there are lists and class names too
        return bool([float(word) for word in read_text(path).strip().split("\n", 1)[0].split()][4:])
    except (ValueError, InputError):
        return False


def _yaml_file(source: str) -> tuple[str | None, str]:
    if os.path.isfile(source):
        return source, os.path.dirname(os.path.abspath(source))
    for name in ("data.yaml", "dataset.yaml", "data.yml"):
        if os.path.isfile(os.path.join(source, name)):
            return os.path.join(source, name), source
    return None, source


def _settings(path: str) -> dict[str, Any]:
    need("yaml", "YOLO's data.yaml", "pyyaml")
    import yaml

    text = read_text(path)
    try:
        # Aliases of aliases grow without bound where they are written out, as in a message.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise InputError(f"{path}: has aliases (*name), which no data.yaml needs; write out what they stand for")
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise InputError(f"{path}: lists or keys too deep inside each other") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds no keys; a YOLO data.yaml has names, train and val")
    return settings


def _names(settings: dict[str, Any], path: str | None, root: str) -> list[str]:
    names = settings.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{path}: names are numbered {sorted(map(str, names))[:5]}...; number them from 0")
        names = [names[number] for number in range(len(names))]
    if isinstance(names, list) and names:
        if odd := [name for name in names if not isinstance(name, str | int | float) or isinstance(name, bool)]:
            raise InputError(f"{path}: YAML reads a name of names as {odd[0]!r}: write names such as 'no' in quotes")
        return [str(name) for name in names]
    for file in ("classes.txt", "obj.names"):
        if os.path.isfile(os.path.join(root, file)):
            return read_class_names(os.path.join(root, file))
    raise InputError(f"{path or root}: no names of classes (names in data.yaml, or classes.txt); give --classes FILE")


def _images(settings: dict[str, Any], root: str, split: str) -> list[str]:
    """Image files of a split: of the folders or lists that data.yaml names, or of a folder by that name."""
    # `path` is often the one on the machine that the data set was made on.
    base = os.path.join(root, str(settings.get("path") or ""))
    base = base if os.path.isdir(base) else root
    given = settings.get(split) or settings.get({"val": "valid", "valid": "val"}.get(split, ""))
    wanted = given if isinstance(given, list) else [given] if given else []
    places = [os.path.join(base, str(place)) for place in wanted]
    # Roboflow writes ../train/images for what is train/images.
    places = [
        p if os.path.exists(p) else os.path.join(root, str(w).removeprefix("../"))
        for p, w in zip(places, wanted, strict=True)
    ]
    if not places:
        places = [os.path.join(root, *parts) for parts in (("images", split), (split, "images"), (split,), ("images",))]
        places = [place for place in places if os.path.isdir(place)][:1]
    files: list[str] = []
    for place in places:
        if os.path.isdir(place):
            files += images_in(place)
        elif os.path.isfile(place):
            lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
            files += [os.path.normpath(os.path.join(os.path.dirname(place), line)) for line in lines]
        else:
            raise InputError(f"{place}: no such folder or list of the images of {split!r}")
    if not files:
        raise InputError(f"{root}: no images of {split!r} (tried data.yaml, images/{split} and {split}/images)")
    return files


def _label_file(image: str) -> str:
    parts = list(Path(image).parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            found = Path(*parts).with_suffix(".txt")
            return str(found if found.is_file() else Path(image).with_suffix(".txt"))
    return str(Path(image).with_suffix(".txt"))


def _add(builder: CocoBuilder, words: list[str], size: Size, where: str) -> None:
    """Add the object of one line."""
    try:
        number, values = int(words[0]), [float(word) for word in words[1:]]
    except (ValueError, OverflowError):
        raise InputError(f"{where}: {' '.join(words)[:80]!r} is not a class number and fractions") from None
    if not 0 <= number < len(builder.class_names):
        raise InputError(f"{where}: class {number}, but there are {len(builder.class_names)} names (0 is the first)")
    if not all(math.isfinite(value) and -SLACK <= value <= 1 + SLACK for value in values):
        raise InputError(f"{where}: coordinates must be fractions of the image, 0 to 1")
    name, (width, height) = builder.class_names[number], size
    if len(values) == 4:  # centre and size; what is longer are corners
        x, y, w, h = values
        builder.add_box(name, [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height])
    elif len(values) >= 6 and len(values) % 2 == 0:
        builder.add_polygons(name, [[value * size[place % 2] for place, value in enumerate(values)]])
    else:
        raise InputError(f"{where}: {len(values)} numbers are neither a box of 4 nor a polygon of 3 points and more")
