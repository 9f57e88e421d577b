"""An exponential moving average of the weights: evaluated and saved beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hiera_det.engine.sharding import gather, like, unwrap
from hiera_det.errors import InputError

__all__ = ["EMA"]


class EMA:
    """The average e of a model's weights w: after step n, counted from 0, ``e = d e + (1 - d) w``.

    ``d = min(decay, (1 + n) / (10 + n))``, so that in a short training the random start does not linger. Buffers are
    not averaged.

    Args:
        model: whose weights are averaged; they are the first average.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = unwrap(model)
        self.decay = decay
        self.steps = 0
        self.weights = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def reset(self) -> None:
        """Start from the model's weights as they are now."""
        for name, parameter in self.model.named_parameters():
            self.weights[name].copy_(parameter)

    @torch.no_grad()
    def update(self) -> None:
        """Take up the weights after a step of the optimizer."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        parameters = [parameter.detach() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), parameters, 1 - decay)
        self.steps += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model has the average for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def model_state(self) -> dict[str, Tensor]:
        """The model's state dict with the average for weights, whole; all processes must call it."""
        with self.in_place():
            # The tensors are the model's own, which get their weights back at the end of the context.
            state: dict[str, Tensor] = gather(self.model.state_dict())
            return {name: tensor.clone() for name, tensor in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"steps": self.steps, "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            InputError: it is of another model.
        """
        saved, own = state["weights"], self.weights
        if saved.keys() != own.keys() or any(saved[name].shape != own[name].shape for name in own):
            raise InputError("--resume: the checkpoint's averaged weights are of another model")
        self.steps = state["steps"]
        for name, tensor in own.items():
            tensor.copy_(like(saved[name], tensor))
