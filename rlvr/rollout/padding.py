"""Lists of different lengths as one tensor."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor


def exist(rows: Sequence[Sequence[Any]], *, left: bool = False) -> Bool[Tensor, "B T"]:
    """Return where padded rows have something; padding is on the right, or on the left.

    Example:
        >>> exist([[5], [7, 8]], left=True)
        tensor([[False,  True],
                [ True,  True]])
    """
    lengths = torch.tensor([len(row) for row in rows]).unsqueeze(-1)
    width = int(lengths.max())
    columns = torch.arange(width)
    return columns >= width - lengths if left else columns < lengths


def filled(
    rows: Sequence[Sequence[Any]], where: Bool[Tensor, "B T"], value: float
) -> Shaped[Tensor, "B T"]:
    """Return the rows' numbers where they exist, and `value`, whose type is the tensor's, elsewhere.

    Example:
        >>> filled([[5], [7, 8]], exist([[5], [7, 8]]), 0)
        tensor([[5, 0],
                [7, 8]])
    """
    # one tensor of all: a tensor of each row costs more than the rows
    found = torch.full(where.shape, value)
    found[where] = torch.tensor(list(chain.from_iterable(rows)), dtype=found.dtype)
    return found
