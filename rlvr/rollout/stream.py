"""The order in which a run's prompts come: fixed by the seed, whatever the layout, epochs joined without a gap."""

import torch


def prompt_stream(rows: int, count: int, seed: int, start: int = 0) -> list[int]:
    """Return `count` row numbers of an endless sequence of shuffled epochs.

    Args:
        rows: Rows of the data set, at least 1.
        count: Prompts wanted.
        seed: Of the run; each epoch has its own permutation.
        start: Prompts before the first that is wanted.

    Example:
        >>> stream = prompt_stream(3, 7, seed=0)
        >>> sorted(stream[:3]), sorted(stream[3:6]), len(stream)
        ([0, 1, 2], [0, 1, 2], 7)
        >>> prompt_stream(3, 3, seed=0, start=4) == stream[4:]
        True
    """
    stream: list[int] = []
    epoch, skipped = divmod(start, rows)
    while len(stream) < skipped + count:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        stream += torch.randperm(rows, generator=generator).tolist()
        epoch += 1
    return stream[skipped : skipped + count]
