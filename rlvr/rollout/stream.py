"""The order in which a run's prompts come: fixed by the seed, whatever the layout, epochs joined without a gap."""

import torch


def prompt_stream(rows: int, count: int, seed: int) -> list[int]:
    """Return the first `count` row numbers of an endless sequence of shuffled epochs.

    Args:
        rows: Rows of the data set, at least 1.
        count: Prompts the run needs.
        seed: Of the run; each epoch has its own permutation.

    Example:
        >>> stream = prompt_stream(3, 7, seed=0)
        >>> sorted(stream[:3]), sorted(stream[3:6]), len(stream)
        ([0, 1, 2], [0, 1, 2], 7)
    """
    stream: list[int] = []
    epoch = 0
    while len(stream) < count:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        stream += torch.randperm(rows, generator=generator).tolist()
        epoch += 1
    return stream[:count]
