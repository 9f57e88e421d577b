"""What a report says of the data: counts, classes, sizes, and what a check has found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from hiera_det.data.coco.check import Look, inspect_coco
from hiera_det.data.coco.findings import Finding
from hiera_det.data.coco.read import read_coco
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.report.page import Bar, Section, Table
from hiera_det.report.scores import SIZES, size_of

__all__ = ["data_section"]


def data_section(splits: Mapping[str, tuple[str, str]]) -> Section:
    """Of some splits by name, such as "training": COCO JSON and image folder; those that are not there are left out."""
    looked = {name: _look(*paths, os.stat(paths[0]).st_mtime_ns) for name, paths in splits.items() if _is_file(paths)}
    known = {name: summary for name, (summary, _, _) in looked.items() if summary}
    head = ["", *known]
    facts = [_facts(summary, sizes) for summary, _, sizes in looked.values() if summary]
    rows = [[what, *(fact[what] for fact in facts)] for what in (facts[0] if facts else ())]
    found = [(name, one.severity, one.text, one.remedy) for name, (_, some, _) in looked.items() for one in some]
    tables = [Table(head, rows, "images and objects")] if rows else []
    tables += [_classes(known)] if known else []
    tables += (
        [Table(("data", "kind", "found", "what to do"), found, "findings of the check", is_text=True)] if found else []
    )
    text = () if found else ("The check of the JSONs has found nothing to say.",)
    return Section("Data", text, tables=tables)


def _is_file(paths: tuple[str, str]) -> bool:
    return bool(paths[0]) and os.path.isfile(paths[0])


@lru_cache(maxsize=4)
def _look(json: str, images: str, _changed: int) -> tuple[CocoSummary | None, list[Finding], Any]:
    """Summary and findings without a look at the images; objects by size, and the images' sizes."""
    summary, findings = inspect_coco(json, images, Look(require_annotations=False, files=False))
    contents = read_coco(json).contents if summary else None
    if contents is None:
        return None, findings.as_list(), None
    counted = np.bincount(size_of(contents.areas[~contents.annotations.crowd]), minlength=len(SIZES))
    sides = np.array([(image["width"], image["height"]) for image in contents.images.values()]).reshape(-1, 2)
    return summary, findings.as_list(), (counted.tolist(), sides)


def _facts(summary: CocoSummary, sizes: Any) -> dict[str, str]:
    """Lines of the table of one split."""
    counted, sides = sizes
    low, middle, high = (np.quantile(sides, part, axis=0).round().astype(int) for part in (0, 0.5, 1))
    masks = summary.mask_format or ("not for all" if summary.num_without_mask else "none")
    return {
        "JSON": summary.path,
        "images": f"{summary.num_images:,}",
        "of them without objects": f"{summary.num_negatives:,}",
        "objects": f"{sum(summary.instance_counts):,}",
        **{f"of them {name}": f"{count:,}" for name, count in zip(SIZES, counted, strict=True)},
        "most objects in an image": f"{summary.fullest} ({summary.fullest_image})",
        "width, least / median / largest": " / ".join(map(str, (low[0], middle[0], high[0]))),
        "height, least / median / largest": " / ".join(map(str, (low[1], middle[1], high[1]))),
        "masks": masks,
    }


def _classes(known: Mapping[str, CocoSummary]) -> Table:
    """Objects of each class in each split."""
    counts = {name: dict(zip(one.class_names, one.instance_counts, strict=True)) for name, one in known.items()}
    most = {name: max(count.values(), default=0) or 1 for name, count in counts.items()}
    classes = list(dict.fromkeys(class_ for count in counts.values() for class_ in count))
    rows = [
        [
            class_,
            *(Bar(f"{count.get(class_, 0):,}", count.get(class_, 0) / most[name]) for name, count in counts.items()),
        ]
        for class_ in classes
    ]
    return Table(["class", *counts], rows, f"objects of the {len(classes)} classes")
