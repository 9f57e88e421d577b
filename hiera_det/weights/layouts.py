"""Recognising a weight file's layout by its keys and selecting the trunk's tensors from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hiera_det.errors import InputError

__all__ = ["TrunkWeights", "is_official", "require_tensors", "select_trunk"]

#: Tensors of the authors' files that a detection trunk has no place for: classifier, MAE decoder.
OFFICIAL_EXTRAS = (
    "norm.",
    "head.",
    "encoder_norm.",
    "mask_token",
    "decoder_",
    "multi_scale_fusion_heads.",
)


@dataclass(frozen=True)
class TrunkWeights:
    """The tensors for a trunk, and the names of those that were left out."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def is_official(loaded: Mapping[str, Any]) -> bool:
    """Whether a file is in the authors' layout: a dict under ``model_state``."""
    return isinstance(loaded.get("model_state"), dict)


def require_tensors(state: Any, source: str) -> None:
    """Refuse what is no state dict: names and their tensors, nothing else.

    Raises:
        InputError: the first entry that is something else, in one line.
    """
    if not isinstance(state, dict):
        raise InputError(f"weight file {source} holds a {type(state).__name__} where a dict of tensors is expected")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(
                f"weight file {source}: entry {name!r} is a {type(value).__name__}, not a named tensor; "
                'save the state dict itself, or a dict that holds it under "model"'
            )


def select_trunk(loaded: Mapping[str, Any], expected: Mapping[str, Tensor], source: str) -> TrunkWeights:
    """Take the trunk's tensors from a file in the authors' layout.

    Args:
        loaded: the file's content.
        expected: the trunk's own state dict, for names and shapes.
        source: the file's name, for messages.

    Raises:
        InputError: tensors of the trunk are missing or of another shape, there are some that we do not know, or an
            entry is no tensor.
    """
    state: dict[str, Tensor] = loaded["model_state"]
    require_tensors(state, source)
    missing = [name for name in expected if name not in state]
    wrong = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    extra = [name for name in state if name not in expected]
    # A trunk that returns early stages only is built without the later blocks.
    unknown = [name for name in extra if not name.startswith((*OFFICIAL_EXTRAS, "blocks."))]
    if missing or wrong or unknown:
        reason = _describe(state, expected, missing, wrong, unknown)
        raise InputError(f"weight file {source} does not fit the model: {reason}")
    return TrunkWeights({name: state[name] for name in expected}, tuple(extra))


def _describe(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    missing: list[str],
    wrong: list[str],
    unknown: list[str],
) -> str:
    """What does not fit, in one line, with the likely cause."""
    stem = "patch_embed.proj.weight"
    if stem in state and state[stem].shape[0] != expected[stem].shape[0]:
        return (
            f"its embed dim is {state[stem].shape[0]}, the model's is {expected[stem].shape[0]}; "
            "set MODEL.HIERA.SIZE to the file's size"
        )
    parts = [
        f"{len(names)} {word} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in (("missing", missing), ("mis-shaped", wrong), ("unknown", unknown))
        if names
    ]
    return "; ".join(parts) + "; is MODEL.HIERA.SIZE the file's size?"
