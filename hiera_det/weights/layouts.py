"""The layouts that published Hiera weights come in: recognised by the names of their tensors, renamed both ways.

Our own names are the authors' (facebookresearch/hiera), with SAM 2's ``pos_embed_window`` and timm's ``ls1.gamma``
where a trunk has them. All layouts hold the same tensors in the same shapes: q, k and v stay fused in this order, and
nothing is transposed, so that renaming is all there is (compared in tests/parity/test_weights.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

__all__ = [
    "DETECTRON2",
    "HF",
    "HIERA_DET",
    "LAYOUTS",
    "OFFICIAL",
    "SAM2",
    "SAM2_HF",
    "TARGETS",
    "TIMM",
    "TIMM_ABSWIN",
    "Layout",
    "head_of",
    "is_trunk_name",
]

#: The words for whose names a file is to be written in; what they stand for depends on the trunk.
TARGETS = ("hiera_det", "official", "hf", "timm", "detectron2")

#: The parts of a file that are no trunk, by the first words of our names.
HEADS = (
    "norm",
    "head.projection",
    "encoder_norm",
    "mask_token",
    "decoder_pos_embed",
    "decoder_embed",
    "decoder_blocks",
    "decoder_norm",
    "decoder_pred",
    "multi_scale_fusion_heads",
)
TRUNK = (
    "patch_embed.proj",
    "pos_embed",
    "pos_embed_window",
    "pos_embed_spatial",
    "pos_embed_temporal",
    "blocks",
)
BLOCK_PARTS = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "proj", "ls1.gamma", "ls2.gamma")

_OUR_BLOCK = re.compile(r"(blocks|decoder_blocks)\.(0|[1-9][0-9]{0,3})\.(.+)")


def is_trunk_name(name: str) -> bool:
    """Whether our name belongs to the trunk, not to a classifier or decoder."""
    return _starts_with_one_of(name, TRUNK)


def head_of(name: str) -> str:
    """Which head our name of a tensor outside the trunk belongs to; a file has all of a head or nothing of it."""
    first = name.split(".")[0]
    return first if first in ("norm", "head") else "decoder"


def _starts_with_one_of(name: str, words: Sequence[str]) -> bool:
    return any(name == word or name.startswith(f"{word}.") for word in words)


@dataclass(frozen=True, eq=False)
class Layout:
    """How one package names the tensors.

    Attributes:
        name: the word for its package on a command line.
        title: what people call it.
        parts: our name to theirs, for words outside the blocks; those not listed are equal.
        block_parts: our name to theirs inside a block; those not listed are equal.
        block: a trunk block's name, with ``{block}``, or with ``{stage}`` and ``{layer}`` inside the stage.
        decoder_block: a decoder block's name, with ``{block}``.
        in_prefix: the words of theirs that stand behind the trunk's prefix; empty for all.
        ignored: words of theirs for tensors that a Hiera never uses.
    """

    name: str
    title: str
    parts: Mapping[str, str] = field(default_factory=dict)
    block_parts: Mapping[str, str] = field(default_factory=dict)
    block: str = "blocks.{block}"
    decoder_block: str = "decoder_blocks.{block}"
    in_prefix: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def from_ours(self, name: str, depths: Sequence[int]) -> str:
        """Their name for ours, without a prefix.

        Args:
            name: our name of a tensor.
            depths: blocks per stage, which some layouts count by.
        """
        match = _OUR_BLOCK.fullmatch(name)
        if match is None:
            return _rename(name, self.parts)
        kind, block, part = match[1], int(match[2]), _rename(match[3], self.block_parts)
        if kind == "decoder_blocks":
            return f"{self.decoder_block.format(block=block)}.{part}"
        stage, layer = _stage_and_layer(block, depths)
        return f"{self.block.format(block=block, stage=stage, layer=layer)}.{part}"

    def to_ours(self, name: str, depths: Sequence[int]) -> str | None:
        """Our name for theirs, or None where we know none.

        Args:
            name: their name of a tensor, its prefix removed.
            depths: blocks per stage, which some layouts count by.
        """
        match = _pattern(self.block).fullmatch(name)
        if match is not None:
            found = match.groupdict()
            block = int(found["block"]) if "block" in found else _block_number(found, depths)
            return self._block_name("blocks", block, found["part"])
        match = _pattern(self.decoder_block).fullmatch(name)
        if match is not None:
            return self._block_name("decoder_blocks", int(match["block"]), match["part"])
        ours = _rename(name, {theirs: our for our, theirs in self.parts.items()})
        known = _starts_with_one_of(ours, (*TRUNK, *HEADS)) and not ours.startswith(("blocks", "decoder_blocks"))
        # A word that this layout calls by another name is not ours by accident.
        return ours if known and self.from_ours(ours, depths) == name else None

    def _block_name(self, kind: str, block: int, part: str) -> str | None:
        ours = _rename(part, {theirs: our for our, theirs in self.block_parts.items()})
        known = _starts_with_one_of(ours, BLOCK_PARTS) and _rename(ours, self.block_parts) == part
        return f"{kind}.{block}.{ours}" if known else None

    def depths(self, names: Sequence[str]) -> tuple[int, ...] | None:
        """Blocks per stage where the names tell: None where blocks are counted over all stages."""
        if "{stage}" not in self.block:
            return None
        found = (_pattern(self.block).fullmatch(name) for name in names)
        depths: dict[int, int] = defaultdict(int)
        for match in found:
            if match is not None:
                stage, layer = int(match["stage"]), int(match["layer"])
                depths[stage] = max(depths[stage], layer + 1)
        return tuple(depths[stage] for stage in range(1 + max(depths, default=-1)))

    @property
    def signature(self) -> tuple[str, str]:
        """Two of their names that together give the layout away: the stem's, and one in the first block."""
        return self.from_ours("patch_embed.proj.weight", ()), self.from_ours("blocks.0.mlp.fc1.weight", ())


def _rename(name: str, words: Mapping[str, str]) -> str:
    """Replace the longest of the given first words of a name."""
    for word in sorted(words, key=len, reverse=True):
        if name == word or name.startswith(f"{word}."):
            return words[word] + name[len(word) :]
    return name


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """What recognises a block's tensor by its template; no model has 10,000 blocks."""
    escaped = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>0|[1-9][0-9]{0,3})", re.escape(template))
    return re.compile(rf"{escaped}\.(?P<part>.+)")


def _stage_and_layer(block: int, depths: Sequence[int]) -> tuple[int, int]:
    """Stage and place in it, both from 0, of a block counted over all stages."""
    for stage, depth in enumerate(depths):
        if block < depth:
            return stage, block
        block -= depth
    return len(depths), block


def _block_number(found: Mapping[str, str], depths: Sequence[int]) -> int:
    """A block's number over all stages."""
    return sum(depths[: int(found["stage"])]) + int(found["layer"])


OFFICIAL = Layout("official", "the authors' Hiera")
HIERA_DET = Layout("hiera_det", "hiera_det")
#: For detectron2's own checkpointer, which takes names as they are, and a model with our backbone.
DETECTRON2 = Layout("detectron2", "detectron2's", in_prefix=("patch_embed", "pos_embed", "blocks"))
TIMM = Layout("timm", "timm's Hiera", parts={"norm": "head.norm", "head.projection": "head.fc"})
TIMM_ABSWIN = Layout(
    "timm",
    "timm's absolute-window Hiera",
    parts={"norm": "head.norm", "head.projection": "head.fc", "pos_embed_window": "pos_embed_win"},
)
SAM2 = Layout("official", "SAM 2's HieraDet", block_parts={"mlp.fc1": "mlp.layers.0", "mlp.fc2": "mlp.layers.1"})
SAM2_HF = Layout(
    "hf",
    "transformers' Sam2HieraDet",
    parts={"patch_embed.proj": "patch_embed.projection"},
    block_parts={
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "mlp.fc1": "mlp.proj_in",
        "mlp.fc2": "mlp.proj_out",
    },
)
HF = Layout(
    "hf",
    "transformers' Hiera",
    parts={
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "pos_embed": "embeddings.position_embeddings",
        "norm": "pooler.layernorm",
        "head.projection": "classifier",
        "mask_token": "decoder.mask_token",
        "decoder_pos_embed": "decoder.decoder_position_embeddings",
        "decoder_embed": "decoder.decoder_embeddings",
        "decoder_norm": "decoder.decoder_norm",
        "decoder_pred": "decoder.decoder_pred",
        "multi_scale_fusion_heads": "multiscale_fusion.multi_scale_fusion_heads",
    },
    block_parts={"norm1": "layernorm_before", "norm2": "layernorm_after"},
    block="encoder.stages.{stage}.layers.{layer}",
    decoder_block="decoder.decoder_block.layers.{block}",
    in_prefix=("embeddings", "encoder", "pooler"),
    ignored=("hidden_states_norms",),
)

#: One layout for each pair of names that gives a file away; the authors' pair is timm's and ours too.
LAYOUTS = (OFFICIAL, SAM2, SAM2_HF, HF)
