"""The trained weights of a policy, their gradients and their optimizer's state, kept and put back.

What is kept lies in the CPU's memory: the device holds what training holds, and no more.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Weights:
    """A copy of the weights that training changes."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = trained(model)
        self._kept = [item.detach().to("cpu", copy=True) for item in self._parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back."""
        for item, kept in zip(self._parameters, self._kept, strict=True):
            item.copy_(kept)

    @torch.no_grad()
    def change(self) -> list[Tensor]:
        """Return what was added to the weights since."""
        pairs = zip(self._parameters, self._kept, strict=True)
        return [item.detach().cpu() - kept for item, kept in pairs]


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes."""
    return [item for item in model.parameters() if item.requires_grad]


def gradients(model: nn.Module) -> list[Tensor]:
    """Return a copy of the gradients, zeros where there is none."""
    return [
        torch.zeros_like(item, device="cpu")
        if item.grad is None
        else item.grad.detach().to("cpu", copy=True)
        for item in trained(model)
    ]


def kept_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a copy of an optimizer's state."""
    return tree_map(
        lambda value: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value,
        optimizer.state_dict(),
    )


def restore_state(optimizer: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Put the state of an optimizer back."""
    # a state that is loaded is used, not copied
    optimizer.load_state_dict(copy.deepcopy(kept))


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the scalar product over all parameters."""
    pairs = zip(first, second, strict=True)
    return sum(float((one.double() * two.double()).sum()) for one, two in pairs)
