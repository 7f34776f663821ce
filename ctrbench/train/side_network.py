"""A network that a learner trains beside the model, such as one that predicts learning rates."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import Optimizer
from ctrbench.nn.schema import Schema

Net = TypeVar("Net", bound=nn.Module)


class SideNetwork(Generic[Net]):
    """A network and the Adam that trains it, with the settings of the model's optimizer.

    Both are created when the first model is available, which determines their schema and device; a restored state is
    kept until then.
    """

    def __init__(self, make: Callable[[Schema], Net]) -> None:
        self.make = make
        self.network: Net | None = None
        self.adam: torch.optim.Adam | None = None
        self.restored: dict[str, Any] | None = None

    def of(self, model: CTRModel, device: torch.device) -> Net:
        """Return the network; it is created for the model's schema, on the device."""
        if self.network is None:
            self.network = self.make(model.schema).to(device)
            if self.restored is not None:
                self.network.load_state_dict(self.restored["network"])
        return self.network

    def begin(self) -> None:
        """Clear the gradients."""
        if self.network is not None:
            self.network.zero_grad()

    def step(self, optimizer: Optimizer) -> None:
        """Make one Adam step with the settings of the model's optimizer."""
        assert self.network is not None, "a step evaluates the network before it ends"
        if self.adam is None:
            self.adam = self._make_adam(self.network, optimizer)
        self.adam.param_groups[0]["lr"] = optimizer.lr
        self.adam.step()

    def _make_adam(self, network: Net, optimizer: Optimizer) -> torch.optim.Adam:
        config = optimizer.config
        betas = (config.beta1, config.beta2)
        adam = torch.optim.Adam(network.parameters(), lr=config.lr, betas=betas, eps=config.eps, fused=True)
        if self.restored is not None:
            adam.load_state_dict(deepcopy(self.restored["adam"]))
        return adam

    def state_dict(self) -> dict[str, Any] | None:
        """Return a copy of weights and moments; None before the first step."""
        if self.network is None or self.adam is None:
            return self.restored
        return deepcopy({"network": self.network.state_dict(), "adam": self.adam.state_dict()})

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Load the state returned by `state_dict`; it takes effect when the network is created."""
        self.network, self.adam, self.restored = None, None, state
