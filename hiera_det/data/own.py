"""Own data as people give it, one COCO JSON and one image folder for each split in the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from hiera_det.data.coco.merge import Source, merge_sources, split_source, write_source
from hiera_det.data.coco.read import read_json
from hiera_det.data.convert.layouts import find_layout
from hiera_det.errors import InputError

__all__ = ["OwnData", "settled_data"]

#: Gives the folder for JSONs that are made, and takes a line of what was done.
Target: TypeAlias = Callable[[], str]
Tell: TypeAlias = Callable[[str], object]
KINDS = ("json", "images")
#: The part that is trained on where a folder has no images to evaluate on.
SHARE = 0.8


def sources_of(split: str, jsons: Sequence[str], images: Sequence[str]) -> tuple[Source, ...]:
    """JSONs with their image folders, of which there is one for each, or one for all.

    Raises:
        InputError: their numbers do not fit.
    """
    if jsons and not images:
        raise InputError(
            f"--{split}-json {jsons[0]} needs --{split}-images, the folder its file_name entries start from"
        )
    if images and not jsons:
        raise InputError(f"--{split}-images {images[0]} needs --{split}-json, the COCO JSON that describes them")
    folders = list(images) * (len(jsons) if len(images) == 1 else 1)
    if len(folders) != len(jsons):
        raise InputError(
            f"--{split}-images: {len(images)} folders for {len(jsons)} JSONs; give one for each, in their order, or "
            "one for all"
        )
    return tuple(Source(*pair) for pair in zip(jsons, folders, strict=True))


def settled_data(
    paths: Mapping[str, Sequence[str]], folder: str, share: float | None, seed: int, target: Target, tell: Tell
) -> dict[str, Any]:
    """The four paths of a run's own data, from what may be several of each, a folder, or one JSON to split.

    Args:
        paths: ``train_json``, ``train_images``, ``val_json`` and ``val_images``.
        folder: see `OwnData`.
        share: see there.
        seed: see there.
        target: see `OwnData.settle`.
        tell: see there.

    Raises:
        InputError: see there.
    """
    if not folder and share is None and all(len(given) <= 1 for given in paths.values()):
        return {name: given[0] if given else None for name, given in paths.items()}
    train, val = (sources_of(split, paths[f"{split}_json"], paths[f"{split}_images"]) for split in ("train", "val"))
    found = OwnData(train, val, folder, share, seed).settle(target, tell)
    pairs = {split: source or (None, None) for split, source in zip(("train", "val"), found, strict=True)}
    return {f"{split}_{kind}": path for split, pair in pairs.items() for kind, path in zip(KINDS, pair, strict=True)}


@dataclass(frozen=True)
class OwnData:
    """What there is.

    Attributes:
        train: JSONs to train on, merged where there are several.
        val: those to evaluate on.
        folder: of a data set in a known layout, in place of both; "" for none.
        share: of the images of ``train`` that is trained on, the others being evaluated on; None for all.
        seed: of that choice.
    """

    train: tuple[Source, ...] = ()
    val: tuple[Source, ...] = ()
    folder: str = ""
    share: float | None = None
    seed: int = 0

    def settle(self, target: Target, tell: Tell) -> tuple[Source | None, Source | None]:
        """One source to train on and one to evaluate on; JSONs that are made go into a folder, named by their content.

        Args:
            target: gives that folder, where one is needed.
            tell: is told what was recognised, merged and split, a line each.

        Raises:
            InputError: something is not there, contradicts, or cannot be used.
        """
        if self.folder:
            with tempfile.TemporaryDirectory() as temporary:
                return self._found(temporary, tell)._settled(target, tell, temporary)
        return self._settled(target, tell)

    def _found(self, temporary: str, tell: Tell) -> OwnData:
        """What is in the folder."""
        if self.train or self.val:
            raise InputError(f"--data {self.folder}: names all of the data; leave --train-json and its like out")
        layout = find_layout(self.folder, temporary)
        tell(f"{self.folder}: recognised as {layout.kind}")
        share = self.share
        if layout.val is None and share is None:
            share = SHARE
            tell(f"it has no part to evaluate on: --split {share}")
        return replace(self, train=(layout.train,), val=(layout.val,) if layout.val else (), folder="", share=share)

    def _settled(self, target: Target, tell: Tell, temporary: str = "") -> tuple[Source | None, Source | None]:
        if self.share is not None:
            return self._split(target, tell)
        names: list[str] = []
        found = []
        for name, sources in (("train", self.train), ("val", self.val)):
            is_made = bool(sources and temporary) and os.path.dirname(sources[0].json) == temporary
            if len(sources) <= 1 and not is_made and not (sources and names):
                found.append(sources[0] if sources else None)
                continue
            content, root = _content(sources, names)
            if len(sources) > 1:
                names = names or [category["name"] for category in content["categories"]]
            _tell_merged(name, sources, content, tell)
            found.append(Source(write_source(content, target(), name), root))
        return found[0], found[1]

    def _split(self, target: Target, tell: Tell) -> tuple[Source, Source]:
        if self.val or not self.train:
            raise InputError(f"--split {self.share}: takes --train-json apart; leave --val-json out and give that")
        content, root = _content(self.train)
        _tell_merged("train", self.train, content, tell)
        parts = split_source(content, self.share or 0.0, self.seed)
        train, val = (write_source(part, target(), name) for part, name in zip(parts, ("train", "val"), strict=True))
        counts = f"{len(parts[0]['images'])} to train on, {len(parts[1]['images'])} to evaluate on"
        tell(f"split by images, seed {self.seed}: {counts}; written as {train} and {val}")
        return Source(train, root), Source(val, root)


def _tell_merged(name: str, sources: Sequence[Source], content: Mapping[str, Any], tell: Tell) -> None:
    if len(sources) > 1:
        counts = f"{len(content['images'])} images of {len(content['categories'])} classes"
        tell(f"{name}: {len(sources)} JSONs merged, {counts}")


def _content(sources: Sequence[Source], known: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Of one JSON what it holds, ids and all; of several what they hold together."""
    if len(sources) > 1 or known:
        return merge_sources(sources, known)
    data = read_json(sources[0].json)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise InputError(f"{sources[0].json}: is no COCO JSON; hiera-det check {sources[0].json} says more")
    return data, sources[0].images
