"""What is compared: trunks under the heads, data and solver of one config, and config keys that differ."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode

from hiera_det.d2.config.load import load_config
from hiera_det.errors import InputError

__all__ = ["RESNETS", "Variant", "read_variants", "trunk_keys"]

#: detectron2's ResNets with a feature pyramid, by their depth.
RESNETS = {"resnet18_fpn": 18, "resnet34_fpn": 34, "resnet50_fpn": 50}
LEVELS = ["res2", "res3", "res4", "res5"]
#: Not a config key: the seconds of a variant that has spent others elsewhere.
SECONDS = "SECONDS"
#: Of the input, which is the same for all.
NOT_THE_TRUNKS = ("SQUARE_PAD",)


@dataclass(frozen=True)
class Variant:
    """One of those that are compared.

    Attributes:
        name: in the table, and of its folder.
        opts: config keys by which it differs from the config that all have in common.
        seconds: of its training; 0 for those of the comparison.
    """

    name: str
    opts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def read_variants(config: str, trunks: Sequence[str], variants: Sequence[Sequence[str]]) -> list[Variant]:
    """The variants that trunks, and lists of words, stand for.

    Args:
        config: that all have in common.
        trunks: names of `RESNETS` or of configs, whose trunks are taken; the first is that of lists without one.
        variants: lists of a name, perhaps a trunk, and config keys with their values; the key ``SECONDS`` is a budget
            of the variant's own.

    Raises:
        InputError: a name that is taken or makes no folder, an unknown trunk, or words that are no pairs.
    """
    found = [Variant(_stem(trunk), trunk_keys(config, trunk)) for trunk in trunks]
    found += [_read(config, trunks[0], words) for words in variants]
    for index, variant in enumerate(found):
        if not re.fullmatch(r"\w[\w.+-]*", variant.name):
            raise InputError(f"--variant {variant.name}: its name is a folder's; write letters, digits, _ and -")
        if variant.name.lower() in (other.name.lower() for other in found[:index]):
            raise InputError(f"{variant.name}: is there twice; give each variant a name of its own")
    return found


def _read(config: str, first_trunk: str, words: Sequence[str]) -> Variant:
    name, *rest = words
    trunk = rest.pop(0) if len(rest) % 2 else first_trunk
    pairs = dict(zip(rest[0::2], rest[1::2], strict=True))
    if not rest and trunk == first_trunk:
        raise InputError(f"--variant {name}: differs in nothing; write config keys with their values after it")
    seconds = pairs.pop(SECONDS, "0")
    try:
        budget = float(seconds)
    except ValueError:
        budget = -1.0
    if not 0 <= budget < float("inf"):
        raise InputError(f"--variant {name} {SECONDS} {seconds}: give a number of seconds")
    return Variant(name, trunk_keys(config, trunk) | pairs, budget)


def trunk_keys(config: str, trunk: str) -> dict[str, Any]:
    """The keys that put a trunk under the heads of a config; none where it is the config's own.

    Raises:
        InputError: there is no such trunk.
    """
    if trunk == config:
        return {}
    if trunk in RESNETS:
        return _resnet_keys(RESNETS[trunk])
    try:
        cfg = load_config(trunk)
    except InputError as error:
        raise InputError(f"{trunk}: no trunk: neither {', '.join(RESNETS)} nor a config ({error})") from None
    keys = {f"MODEL.HIERA.{name}": value for name, value in _flat(cfg.MODEL.HIERA) if name not in NOT_THE_TRUNKS}
    return {"MODEL.BACKBONE.NAME": cfg.MODEL.BACKBONE.NAME, "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, **keys}


def _resnet_keys(depth: int) -> dict[str, Any]:
    """From random weights as detectron2 trains them so: GroupNorm, nothing frozen."""
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256 if depth >= 50 else 64,
        "MODEL.RESNETS.OUT_FEATURES": LEVELS,
        "MODEL.RESNETS.NORM": "GN",
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.FPN.IN_FEATURES": LEVELS,
        "MODEL.FPN.NORM": "GN",  # detectron2 0.6 knows no LN here
    }


def _flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _stem(trunk: str) -> str:
    """A config's name without its folder."""
    return os.path.basename(trunk).removesuffix(".yaml")
