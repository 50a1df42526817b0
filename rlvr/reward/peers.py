r"""Other libraries' verdicts, to be measured beside ours.

    rlvr reward bench FILE --verifier rlvr.reward.peers:math_verify
    rlvr reward audit DATASET --second rlvr.reward.peers:math_verify

A gold is put into `\boxed{}`, which both read better than a bare one.
"""

from rlvr.reward.wrapping import boxed
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, wrong

COLUMNS = ("answer",)


def math_verify(sample: Sample) -> Verdict:
    """Return the verdict of math-verify in its default configuration, its alarm included."""
    from math_verify import parse, verify

    is_right = verify(parse(_gold(sample)), parse(sample.completion))
    return CORRECT if is_right else wrong()


def trl_accuracy(sample: Sample) -> Verdict:
    """Return the verdict of TRL's accuracy_reward."""
    from trl.rewards import accuracy_reward

    (reward,) = accuracy_reward([[{"content": sample.completion}]], [_gold(sample)])
    if reward is None:
        return skipped("the gold cannot be parsed")
    return CORRECT if reward else wrong()


def _gold(sample: Sample) -> str:
    gold = str(sample.answer)
    return gold if r"\boxed" in gold else boxed(gold)
