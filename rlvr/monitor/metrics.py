"""Name, unit and meaning of every metric a run writes: the one place where they are defined.

`docs/metrics.md` is `markdown()` written to a file; a test compares the two. A name in angle
brackets stands for whatever the recipe put there: `eval/<set>/pass@<k>` covers
`eval/MATH-500/pass@8`. Three clocks: a *micro-batch* is one forward/backward, an *update* one
optimizer step, a *generation* one rollout, which feeds one or more updates.
"""

import re
from dataclasses import dataclass
from functools import cache

OUTCOMES = ("correct", "wrong", "partial", "unparsable", "timeout", "crashed", "skipped")
"""Verdict outcomes in the order in which they are shown."""

DROPPED_OUTCOMES = ("timeout", "crashed", "skipped")
"""Outcomes that say nothing about the completion and are left out of the group by default."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name (perhaps with placeholders), unit, section and meaning."""

    name: str
    unit: str
    section: str
    meaning: str


_SECTIONS: dict[str, list[tuple[str, str, str]]] = {
    "Clocks": [
        ("update", "count", "Optimizer steps done; the key of a row. 0 is the model before training."),
        ("generation", "count", "Number of the rollout that this update trains on, from 0; one generation feeds one or more updates."),
        ("tokens", "tokens", "Completion tokens trained on in this update, all processes."),
    ],
    "Reward": [
        ("reward", "score", "Mean reward of the completions of this update; dropped verdicts are left out."),
        ("reward/std", "score", "Mean over groups of the standard deviation of the rewards in a group."),
        ("rewards/<verifier>", "score", "Mean of one verifier's part of the reward, its weight included, over the whole rollout; in the row of a rollout's first update."),
        ("group/zero_advantage_fraction", "0..1", "Share of groups whose completions all got the same reward: they teach nothing."),
    ],
    "Dynamic sampling": [
        ("rollout/prompts_consumed", "count", "Prompts sampled for this rollout, refills included. These metrics are in the row of a rollout's first update of a run with `rollout.dynamic_sampling`; there `reward`, `verdict/...` and `length/...` are of the groups trained on, `rewards/<verifier>` of all that were sampled."),
        ("rollout/refills", "count", "Batches of prompts sampled after the first."),
        ("rollout/recovered", "count", "Groups of the rollout before that this one trains on (Recent Sample Recovery)."),
        ("group/kept_fraction", "0..1", "Share of the sampled groups whose completions got different rewards: they teach something."),
        ("group/all_right_fraction", "0..1", "Share of the sampled groups with one reward in which all completions are correct."),
        ("group/all_wrong_fraction", "0..1", "Share of the sampled groups with one reward in which none is correct. What remains to 1 was not judged or left out of the loss."),
    ],
    "Difficulty of the prompts": [
        ("difficulty/prompts_seen", "count", "Prompts of the data that were sampled and judged so far. These metrics are in the row of a rollout's first update of a run with `rollout.difficulty`."),
        ("difficulty/pass_rate", "0..1", "Mean of the remembered pass rates of those prompts, each counted once; not the policy's on what it trains on."),
        ("difficulty/too_easy_fraction", "0..1", "Share of the data's prompts that this rollout left out since their pass rate is above `max_pass_rate`."),
        ("difficulty/too_hard_fraction", "0..1", "Share left out since it is below `min_pass_rate`."),
        ("difficulty/revisited", "count", "Prompts outside the range that were sampled to look at them again."),
        ("difficulty/stand_ins", "count", "Prompts outside the range that were sampled since too few in it were left."),
    ],
    "Entropy": [
        ("entropy", "nats", "Entropy of the next-token distribution over the full vocabulary, at the rollout temperature; mean over the update's tokens that were sampled at it, those without advantage included: where nothing else teaches them, as the policy saw them that sampled them."),
        ("entropy/covariance", "nats", "Cov(log pi, A) over the tokens of the update, A the advantage; positive: likely tokens are reinforced and entropy falls."),
        ("entropy/predicted_change", "nats", "First-order change of entropy of a softmax policy whose logits move by the learning rate: -lr Cov(A r, pi (ln pi + H)). Its sign and its course say more than its size: networks share parameters and use Adam."),
        ("entropy/measured_change", "nats", "Entropy of this update's tokens minus that of the tokens of the update before."),
        ("<control>/<what>_fraction", "0..1", "Share of tokens that an entropy control touched, by what it did (`clip_cov/dropped_fraction`)."),
        ("<control>/<statistic>", "see the control", "Any other statistic of an entropy control; unit and meaning are in its file."),
    ],
    "Kernel": [
        ("kernel/left_out", "0..1", "Share of the L1 norm of the gradient by the logits that the backward pass left out, at most; in runs with `kernel.tolerance`."),
        ("kernel/tiles_made", "0..1", "Share of the tiles of logits that it made."),
    ],
    "Verdicts": [
        ("verdict/correct", "0..1", "Share of completions judged correct by the first verifier."),
        ("verdict/wrong", "0..1", "Share judged wrong."),
        ("verdict/partial", "0..1", "Share that earned a part of the score (tests passed, constraints met)."),
        ("verdict/unparsable", "0..1", "Share in which the verifier found no answer."),
        ("verdict/timeout", "0..1", "Share on which the verifier passed its deadline, or the batch did, and was killed."),
        ("verdict/crashed", "0..1", "Share on which the verifier raised, died or returned no number."),
        ("verdict/skipped", "0..1", "Share that was not judged (unusable gold answer)."),
        ("verifier/<verifier>/failed_fraction", "0..1", "Share of the completions shown to one verifier on which it was late or died, over the whole rollout; in the row of a rollout's first update."),
    ],
    "Completions": [
        ("length/mean", "tokens", "Mean completion length."),
        ("length/max", "tokens", "Longest completion."),
        ("length/truncated_fraction", "0..1", "Share of completions cut at max_completion_length."),
    ],
    "Optimization": [
        ("loss", "loss", "Value of the objective that was minimised, all regularizers included."),
        ("tokens/in_loss_fraction", "0..1", "Share of `tokens` that weigh in the mean of the loss: below 1 where a control drops tokens or a token budget cuts them."),
        ("grad_norm", "norm", "Norm of the gradient before clipping."),
        ("learning_rate", "1", "Learning rate of this update."),
        ("clip/low_fraction", "0..1", "Share of tokens whose ratio lies below 1 - clip_low with a negative advantage: clipped."),
        ("clip/high_fraction", "0..1", "Share of tokens whose ratio lies above 1 + clip_high with a positive advantage: clipped."),
        ("kl", "nats", "KL divergence from the initial policy by the recipe's estimator, mean over tokens."),
    ],
    "Time": [
        ("time/rollout", "seconds", "Wall time of a rollout: generating, scoring, statistics; in the row of its first update."),
        ("time/score", "seconds", "Wall time of the verifiers; in the row of a rollout's first update."),
        ("time/verifier/<verifier>/mean", "seconds", "Mean wall time of one verifier's verdict on one completion, over the whole rollout; a verdict that was kept from an equal answer counts as it took at first."),
        ("time/verifier/<verifier>/p99", "seconds", "99 % of those verdicts took at most so long."),
        ("time/update", "seconds", "Wall time of the whole update, rollout and scoring included."),
    ],
    "Held-out evaluation": [
        ("eval/<set>/pass@<k>", "0..1", "Chance that at least one of k samples is correct (unbiased estimate from n >= k samples), mean over prompts."),
        ("eval/<set>/pass@<k>/low", "0..1", "Lower end of the 95 % interval of pass@k (bootstrap over prompts)."),
        ("eval/<set>/pass@<k>/high", "0..1", "Upper end of the 95 % interval of pass@k."),
        ("eval/<set>/distinct_correct", "count", "Mean number of different correct completions per prompt; runs of whitespace count as one space."),
        ("eval/<set>/entropy", "nats", "Entropy of the next-token distribution over the full vocabulary, at the rollout temperature; mean over sampled tokens."),
        ("eval/<set>/length", "tokens", "Mean completion length."),
        ("eval/<set>/truncated_fraction", "0..1", "Share of samples cut at the length limit; a truncated sample is rarely correct."),
        ("eval/<set>/verdict/<outcome>", "0..1", "Share of samples with this verdict."),
        ("eval/<set>/prompts", "count", "Prompts that were evaluated."),
        ("eval/<set>/left_out", "count", "Prompts left out: unusable gold answer, or too few judged samples."),
        ("eval/<set>/samples", "count", "Samples per prompt (n of pass@k)."),
    ],
}  # fmt: skip

METRICS: tuple[Metric, ...] = tuple(
    Metric(name, unit, section, meaning)
    for section, rows in _SECTIONS.items()
    for name, unit, meaning in rows
)

# First parts of names that are ours: no entropy control may be called like this.
RESERVED = frozenset(m.name.split("/")[0] for m in METRICS if not m.name.startswith("<"))


@cache
def describe(name: str) -> Metric | None:
    """Return the metric that `name` is an instance of, or None for an unknown name.

    Example:
        >>> describe("eval/MATH-500/pass@8").unit
        '0..1'
        >>> describe("clip_cov/dropped_fraction").name
        '<control>/<what>_fraction'
        >>> describe("verdict/typo") is None
        True
    """
    for metric in METRICS:
        if metric.name.startswith("<control>") and name.split("/")[0] in RESERVED:
            continue
        if re.fullmatch(_pattern(metric.name), name):
            return metric
    return None


def _pattern(name: str) -> str:
    parts = re.split(r"(<\w+>)", name)
    return "".join(
        r"\d+" if part == "<k>" else r"[^/]+" if part.startswith("<") else re.escape(part)
        for part in parts
    )


def unit(name: str) -> str:
    """Return the unit of a metric, or an empty string if the name is unknown."""
    metric = describe(name)
    return metric.unit if metric else ""


def markdown() -> str:
    """Return the text of `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "A run writes one JSON object per update to `metrics.jsonl` in its folder. This page is made",
        "from `rlvr/monitor/metrics.py` (`python -m rlvr.monitor.metrics > docs/metrics.md`).",
        "",
        "- `null` means that a value was not measured or was not finite (strict JSON has no NaN).",
        "- A row may lack a metric; rows with the same `update` are read as one.",
        "- An *update* is one optimizer step, a *generation* is one rollout, which feeds one or more",
        "  updates. Means are over all completions or tokens of the update, on all processes.",
        "- Entropies are in nats: `ln(vocabulary size)` is the maximum, 0 the minimum. Reasoning",
        "  models usually live between 0.05 and 1.",
        "- Names in angle brackets stand for what the recipe put there.",
    ]
    section = ""
    for metric in METRICS:
        if metric.section != section:
            section = metric.section
            lines += ["", f"## {section}", "", "| metric | unit | meaning |", "|---|---|---|"]
        lines.append(f"| `{metric.name}` | {metric.unit} | {metric.meaning} |")
    lines += ["", *_COMPLETIONS.strip().splitlines(), ""]
    return "\n".join(lines)


_COMPLETIONS = """
## Completions

`completions/update_00001.parquet` holds the completions of one update, one row each.

| column | type | meaning |
|---|---|---|
| `update`, `generation` | int | the clocks above |
| `prompt` | string | the prompt; chat messages as JSON |
| `completion` | string | what the policy wrote |
| `answer` | string | the gold answer; JSON if it is not a string |
| `task` | string | data set or task of the row |
| `reward` | float | reward; null if the completion was left out of its group |
| `verdict`, `reason` | string | outcome of the first verifier, and why |
| `advantage` | float | advantage after the group baseline; null if the group was not trained on (dynamic sampling) |
| `length` | int | tokens of the completion |
| `truncated` | bool | cut at max_completion_length |
| `entropy` | float | mean entropy of its tokens, nats; null as `advantage` |
| `rewards/<verifier>` | float | each verifier's own score |
"""


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
