"""From hidden states to scaled logits, a tile at a time.

    z = cap tanh(scale (x Wᵀ + u Bᵀ + b) / cap) / T

x hidden states, W the head, u Bᵀ what an adapter of low rank adds, b its bias; without a cap it is scale (...) / T.
Legend: N rows (tokens), V vocabulary, H hidden size, R rank of the adapter.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100
"""Target of a row that is left out."""
LOW_PRECISION = (torch.float16, torch.bfloat16)
LOWEST = -1e30
"""Stands for a logit of -inf, of which 0 x -inf would make no number."""


def compute_dtype(hidden: torch.dtype) -> torch.dtype:
    """Return in what logits of such hidden states are summed and used: float64 for float64, else float32."""
    return torch.float64 if hidden == torch.float64 else torch.float32


@dataclass(frozen=True)
class Projection:
    """What the logits are made of."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None = None
    low_hidden: Float[Tensor, "N R"] | None = None
    """u: hidden states through an adapter's first matrix, scaled."""
    low_weight: Float[Tensor, "V R"] | None = None
    """B: an adapter's second matrix."""
    temperature: float | Float[Tensor, " N"] = 1.0
    softcap: float | None = None
    logit_scale: float = 1.0
    operand_dtype: torch.dtype = torch.float32
    """Of the matrices that are multiplied; sums and everything after them are `compute_dtype`."""

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.weight.shape[0]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Float64 for float64 hidden states, else float32."""
        return compute_dtype(self.hidden.dtype)

    def rows(self, index: Int[Tensor, " n"]) -> "Projection":
        """Return the same head with these rows."""
        low, warmth = self.low_hidden, self.temperature
        return replace(
            self,
            hidden=self.hidden[index],
            low_hidden=None if low is None else low[index],
            temperature=warmth[index] if isinstance(warmth, Tensor) else warmth,
        )

    def operand(self, tensor: Tensor) -> Tensor:
        """Return a tensor as it is multiplied."""
        return tensor.to(self.operand_dtype)

    def packed(self, matrix: Tensor) -> Tensor:
        """Return a matrix as it is multiplied, its last dimension contiguous."""
        made = self.operand(matrix)
        return made if made.stride(1) == 1 else made.contiguous()

    def slope(self) -> Tensor:
        """Return dz/d(x Wᵀ) of each row where there is no cap, (N,)."""
        slope = self.logit_scale / self.temperature
        if isinstance(slope, Tensor):
            return slope.to(self.compute_dtype)
        return torch.full(
            (len(self.hidden),), slope, dtype=self.compute_dtype, device=self.hidden.device
        )

    def scale_(self, z: Float[Tensor, "n v"], bias: Tensor | None, rows: slice) -> Tensor:
        """Turn raw products of some rows into scaled logits, in place."""
        if bias is not None:
            z.add_(bias)
        if self.softcap is not None:
            z.mul_(self.logit_scale / self.softcap).tanh_().mul_(self.softcap)
        elif self.logit_scale != 1:
            z.mul_(self.logit_scale)
        if isinstance(self.temperature, Tensor):
            z.div_(self.temperature[rows, None])
        elif self.temperature != 1:
            z.div_(self.temperature)
        return z if bias is None else z.clamp_(min=LOWEST)

    def cap_factor(self, z: Float[Tensor, "n v"], rows: slice) -> Tensor | None:
        """Return what the cap multiplies the gradient by, (n, v), from scaled logits; None without a cap."""
        if self.softcap is None:
            return None
        warmth = self.temperature
        warmth = warmth[rows, None] if isinstance(warmth, Tensor) else warmth
        return 1 - (z * (warmth / self.softcap)).square()


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which products keep the dtypes that they are given."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def product(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
    """Write a b, or out + a b, to `out`; products of low precision are summed in the dtype of `out` where that is finer."""
    if a.dtype == out.dtype:
        return out.addmm_(a, b) if add else torch.mm(a, b, out=out)
    if out.device.type == "cuda" and out.dtype == torch.float32:
        if add:
            return torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    if add:
        return out.addmm_(a.to(out.dtype), b.to(out.dtype))
    return out.copy_(torch.mm(a.float(), b.float()))
