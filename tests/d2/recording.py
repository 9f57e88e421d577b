"""A config that writes down which of its keys are read."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode


class Recording(CfgNode):
    """A config whose reads end up in ``reads``, those of its copies too."""

    @classmethod
    def of(cls, cfg: CfgNode, reads: set[str], prefix: str = "") -> Recording:
        """A recording copy of a config."""
        node = cls()
        for key, value in cfg.items():
            inner = cls.of(value, reads, f"{prefix}{key}.") if isinstance(value, CfgNode) else value
            dict.__setitem__(node, key, inner)
        node.__dict__["reads"], node.__dict__["prefix"] = reads, prefix
        return node

    def _read(self, key: Any) -> None:
        if key in self and not isinstance(dict.get(self, key), CfgNode):
            self.__dict__["reads"].add(self.__dict__["prefix"] + key)

    def __getattr__(self, name: str) -> Any:
        self._read(name)
        return super().__getattr__(name)

    def __getitem__(self, key: str) -> Any:
        self._read(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict's."""
        self._read(key)
        return super().get(key, default)

    def __deepcopy__(self, memo: Any) -> Recording:
        return Recording.of(self, self.__dict__["reads"], self.__dict__["prefix"])
