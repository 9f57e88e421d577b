"""Whether the JSON's image files are in the image folder, and where they are if not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hiera_det.data.coco.findings import Findings, fix_command, listed, short
from hiera_det.data.coco.names import Folder, differences, leads_outside, locate
from hiera_det.data.coco.schema import ImageId

__all__ = ["check_files_there"]


def check_files_there(images: Mapping[ImageId, dict[str, Any]], root: str, findings: Findings) -> list[dict[str, Any]]:
    """The images whose files are there; tells of the others."""
    folder = Folder(root)
    there, outside, missing, linked = [], [], [], []
    for image in images.values():
        name = image["file_name"]
        if leads_outside(name):
            outside.append(image)
        elif not folder.has(name):
            missing.append(image)
        else:
            there.append(image)
            if folder.links_outside(name):
                linked.append(image)
    if linked:
        said = f"{len(linked)} image files are links out of {root}: {listed([i['file_name'] for i in linked])}"
        findings.add("image-link", said, image_id=linked[0]["id"], count=len(linked))
    for kind, culprits in (("image-outside", outside), ("image-missing", missing)):
        if culprits:
            _tell_missing(kind, culprits, len(images), root, findings)
    return there


def _tell_missing(kind: str, images: list[dict[str, Any]], total: int, root: str, findings: Findings) -> None:
    """Say which files are not in the folder, and where they are instead."""
    path, names = findings.file, [image["file_name"] for image in images]
    said = f"{len(names)} of {total} images are not in {root}: {listed(names)}"
    if kind == "image-outside":
        said = f"file_name {short(names[0])} lies outside the image folder {root}"
    # Where the first one is, the others are likely to be: one line of advice for all.
    remedy = None
    located = locate(names, root, are_all=len(names) == total)
    if located:
        actual = located.names[names[0]]
        is_renamed = any(name != found for name, found in located.names.items())
        how = f"{short(names[0])} is there as {short(actual)} ({differences(names[0], actual)})"
        if located.root == root:
            kind = "image-named-otherwise"
            remedy = f"{how}: {fix_command(path, root)} writes a JSON with the files' names"
        elif is_renamed:  # the folder alone would lead to a second refusal: both are said at once
            kind = "image-folder-off"
            remedy = (
                f"{how} in {located.root}: {fix_command(path, located.root)} writes a JSON with the files' names; "
                f"use it with {located.root} as the image folder"
            )
        else:
            kind, remedy = "image-folder-off", f"it is there from {located.root}: give that as the image folder"
        if len(located.names) < len(names):
            remedy += f" ({len(names) - len(located.names)} others are not there either)"
    findings.add(kind, said, remedy=remedy, image_id=images[0]["id"], count=len(images))
