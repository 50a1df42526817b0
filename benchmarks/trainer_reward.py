"""A reward of one's own for the random policy of `benchmarks.trainer`: rlvr runs it in its workers, the peer calls it."""

from rlvr.rewards.verdict import Sample


def reward(sample: Sample) -> bool:
    """Return whether the completion begins with a word of an even number: `w8 w3 w5`."""
    words = sample.completion.split()
    return bool(words) and int(words[0].removeprefix("w")) % 2 == 0
