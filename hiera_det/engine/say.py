"""The logger of what is said to people, on the terminal too (`hiera_det.engine.talk.Terminal`)."""

from __future__ import annotations

import logging

__all__ = ["say"]

say = logging.getLogger("hiera_det.say")
