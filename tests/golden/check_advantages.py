"""Advantages: Pass@k training and RLVR-Decomposed against the authors' code, PSHW against its report."""

import torch

from rlvr import advantage
from tests.golden.golden import Golden


def one_group(golden: Golden, n: int, right: int, low: float = 0.0) -> tuple[torch.Tensor, ...]:
    """Return the rewards of a group, the right ones first, and its ids."""
    rewards = torch.where(torch.arange(n) < right, 1.0, low).to(golden.dtype)
    return rewards, torch.zeros(n, dtype=torch.long)


def check_pshw(golden: Golden) -> None:
    options = {"slope": golden.options["alpha"], "bias": golden.options["bias"]}
    for row in golden.outputs["rows"]:
        n, right = row["n"], row["correct"]
        ours = advantage.pshw(*one_group(golden, n, right), **options)
        golden.check(ours, row["advantages"], f"{right} of {n}")
        # the report's own rewards
        signed = advantage.pshw(*one_group(golden, n, right, -1.0), **options, low=-1.0)
        golden.check(signed, row["advantages"], f"{right} of {n}, rewards -1 and 1")
        mean = 2 * right / n - 1
        golden.check(mean, row["mu"], "mu")
        golden.check(options["slope"] * mean + options["bias"], row["D"], "D")


def check_pass_at_k(golden: Golden) -> None:
    for row in golden.outputs["rows"]:
        n, right, k = row["n"], row["c"], row["k"]
        ours = advantage.pass_at_k(*one_group(golden, n, right), k=k, eps=golden.options["eps"])
        golden.check(ours, row["advantages"], f"{right} of {n}, k {k}")


def check_psr_nsr(golden: Golden) -> None:
    options = golden.options
    assert options["gamma"] == 1, "rewards at the end of a completion, undiscounted, are ours"
    positive, negative = {
        "positive": (1.0, 0.0),
        "negative": (0.0, 1.0),
        "weighted": (options["positive_advantage_weight"], 1.0),
    }[options["advantage"]]
    mask = golden.input("response_mask")
    rewards = golden.input("token_level_rewards").sum(-1)
    ours = advantage.psr_nsr(
        rewards, torch.arange(len(rewards)), positive=positive, negative=negative
    )
    # their function gives 0 to rows that their trainer drops before it
    dropped = (rewards == 1) if positive == 0 else (rewards == 0) & (negative == 0)
    assert (ours.isnan() == dropped).all()
    theirs = golden.outputs["advantages"]
    golden.check(ours.nan_to_num(nan=0.0).unsqueeze(-1) * mask, theirs, "advantages")
    golden.check(rewards.unsqueeze(-1) * mask, golden.outputs["returns"], "returns")


CHECKS = {
    "confucius_pshw": check_pshw,
    "passk": check_pass_at_k,
    "psr_nsr": check_psr_nsr,
}
