"""ARES against the authors' code, and its paper's reward against a reconstruction."""

from dataclasses import replace

import torch

from rlvr.entropy import _ares_reward as rule
from rlvr.entropy import ares
from tests.golden.golden import Golden, tensor


def check_reward(golden: Golden) -> None:
    rows = golden.outputs["rows"]
    if "counts" in rows[0]:
        return check_paper_reward(golden)
    options, bucket = golden.options, golden.case
    shape = replace(
        rule.CODED_SHAPES[bucket],
        margin=options["MARGIN_FRAC"][bucket],
        kappa=options["KAPPA"][bucket],
        temperature=options["TEMP"][bucket],
        cap=options["CAP_SCALE"][bucket],
    )
    for row in rows:
        is_right = torch.tensor([row["accuracy"] == 1])
        count = torch.tensor([row["count"]], dtype=golden.dtype)
        bonus = rule.coded_bonus(
            count, is_right, target=row["target"], alpha=row["alpha"], bucket=bucket, shape=shape
        )
        golden.check(bonus, [row["entropy_score"]], f"bonus of {row}")
        golden.check(row["accuracy"] + bonus, [row["overall"]], f"reward of {row}")
    return None


def check_paper_reward(golden: Golden) -> None:
    for row in golden.outputs["rows"]:
        counts = tensor(row["counts"], golden.dtype)
        accuracy = tensor(row["accuracy"], golden.dtype)
        target = row["target"]
        rate = rule.penalty_rate(counts, target, eps=golden.options["eps"])
        golden.check(rate, row["lam"], "lambda")
        penalty = rate * rule.miss(counts, target, row["difficulty"])
        golden.check(torch.where(accuracy == 0, accuracy - penalty, accuracy), row["reward"], "R")


def check_window(golden: Golden) -> None:
    options, inputs, outputs = golden.options, golden.inputs, golden.outputs
    samples = inputs["top_logprobs"]
    width = max(map(len, samples))
    shape = (len(samples), width)
    entropies, mass = torch.zeros(shape), torch.zeros(shape)
    mask, triggers = torch.zeros(shape).bool(), torch.zeros(shape).bool()
    words, vocabulary = set(options["reasoning_tokens"]), inputs["vocabulary_modulo"]
    for row, sample in enumerate(samples):
        for place, found in enumerate(sample):
            top = torch.tensor(list(found.values()), dtype=golden.dtype)
            assert len(top) == options["num_logprobs"]
            entropies[row, place] = -(top.exp() * top).sum()
            mass[row, place] = top.exp().sum()
            mask[row, place] = True
            likeliest = int(max(found, key=lambda token: found[token]))
            text = vocabulary[likeliest % len(vocabulary)]
            triggers[row, place] = rule.is_trigger(text, words)

    whole = rule.with_tail(entropies, mass)
    golden.check(
        torch.where(mask, whole, 0.0).sum(-1) / mask.sum(-1), outputs["mean_entropy"], "mean"
    )
    means, complete = rule.window_means(entropies, mask, options["window_size"], ahead=1)
    filled = rule.filled_windows(means, complete, entropies)
    percentiles = rule.row_percentiles(filled, mask, options["percentile"])
    golden.check(percentiles, outputs["percentile_thresholds"], "percentiles")

    threshold = inputs["threshold"]
    means, complete = rule.window_means(whole, mask, options["window_size"], ahead=1)
    at_trigger = complete & triggers
    counts = rule.count_windows(means, at_trigger, threshold, strict=False)
    assert counts.tolist() == outputs["hwe_count"]
    assert (at_trigger.sum(-1) - counts).tolist() == outputs["invalid_count"]
    cost = torch.where(at_trigger, (means - threshold).clamp(min=0), 0.0).sum(-1)
    golden.check(cost, outputs["soft_cost"], "soft cost")


def check_dynamic_kl(golden: Golden) -> None:
    options = golden.options
    config = ares.Config(
        kl_scale_start=options["beta_init"],
        kl_target=options["kl_target"],
        kl_ema=options["ema"],
        kl_scale_rate=options["lr"],
        kl_error_max=options["clip"],
        kl_interval=options["interval"],
        kl_deadzone=options["deadzone"],
        kl_scale_min=options["beta_min"],
        kl_scale_max=options["beta_max"],
    )
    expected = {item["after_call"]: item for item in golden.outputs["trace"]}
    state = ares.build(config).init()
    for number, call in enumerate(golden.inputs["calls"], start=1):
        by_bucket = {
            name: [kl for kl, level in zip(call["kl"], call["d"], strict=True) if level == name]
            for name in rule.BUCKETS
        }
        means = {name: sum(found) / len(found) for name, found in by_bucket.items() if found}
        state = ares.next_kl_scales(state, means, config)
        if number in expected:
            for theirs, ours in (("beta", "kl_scale"), ("ema_kl", "kl"), ("e_ema", "kl_error")):
                for name, value in expected[number][theirs].items():
                    if value is not None or state[ours][name] is not None:
                        golden.check(state[ours][name], value, f"{theirs} of {name} at {number}")
    assert state["kl_calls"] >= max(expected)


CHECKS = {
    "ares_reward": check_reward,
    "ares_window": check_window,
    "ares_dynamic_kl": check_dynamic_kl,
}
