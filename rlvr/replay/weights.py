"""The trained weights of a policy, kept and put back."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Weights:
    """A copy of the weights that training changes, on the CPU."""

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
        return [item.detach() - kept.to(item.device) for item, kept in pairs]


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes."""
    return [item for item in model.parameters() if item.requires_grad]


def gradients(model: nn.Module) -> list[Tensor]:
    """Return a copy of the gradients, zeros where there is none."""
    return [
        torch.zeros_like(item) if item.grad is None else item.grad.detach().clone()
        for item in trained(model)
    ]


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the scalar product over all parameters."""
    pairs = zip(first, second, strict=True)
    return sum(float((one.double() * two.double()).sum()) for one, two in pairs)
