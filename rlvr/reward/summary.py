"""The figures of a bench: what was judged as labelled, what was not, and how long it took."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rlvr.reward.case import ATTACK, BENIGN, DATA_ERROR
from rlvr.reward.judge import Judged, Judgement
from rlvr.rewards.verdict import Outcome

TAGS = ("source", "domain", "cls")
SAME_SHARE = 2e-3
"""Shares this near are the same: labels are rounded to three places."""

FALSE_POSITIVE, FALSE_NEGATIVE, SCORED = "false_positive", "false_negative", "data_error_scored"


def failure(item: Judged) -> str | None:
    """Return how a verdict differs from the label; None where it does not, or nothing is known.

    An attack must get no reward at all; of other wrong completions a share may be right.
    """
    case = item.case
    if case.kind == DATA_ERROR:
        return SCORED if _is_scored(item) else None
    if case.expected is None:
        return None
    if case.expected >= 1.0:
        return None if item.accepted else FALSE_NEGATIVE
    is_taken = item.paid if case.kind == ATTACK else item.accepted
    return FALSE_POSITIVE if is_taken else None


def summarize(judgement: Judgement) -> dict[str, Any]:
    """Return the figures by name; rates are null where there is nothing to take them over."""
    judged = judgement.judged
    strict = [item for item in judged if not item.case.policy]
    labelled = [item for item in strict if _is_labelled(item)]
    policy = [item for item in judged if item.case.policy]
    errors = [item for item in judged if item.case.kind == DATA_ERROR]
    outcomes = Counter(item.scored.verdict.outcome for item in judged)
    seconds = [item.scored.verdict.seconds for item in judged]
    figures = {
        "verifiers": dict(Counter(item.verifier for item in judged)),
        "rows": len(judged),
        **rates(labelled),
        **_of_kind(strict),
        "data_errors": len(errors),
        "data_errors_scored": sum(map(_is_scored, errors)),
        "unlabelled": sum(item.case.expected is None for item in strict)
        - sum(not item.case.policy for item in errors),
        **_agreement(labelled),
        "policy": rates([item for item in policy if _is_labelled(item)]) | _of_kind(policy),
        "seconds": round(judgement.seconds, 3),
        "items_per_s": round(len(judged) / max(judgement.seconds, 1e-9), 2),
        "p50_s": round(quantile(seconds, 0.5), 6),
        "p99_s": round(quantile(seconds, 0.99), 6),
        "timeouts": outcomes[Outcome.TIMEOUT],
        "crashes": outcomes[Outcome.CRASHED],
        "outcomes": {outcome.value: outcomes[outcome] for outcome in Outcome},
        "left_behind": [{"id": name, "path": path} for name, path in judgement.marks],
        "left_running": judgement.left,
        "by": {tag: _by(labelled, tag) for tag in TAGS},
        "failures": list(failures(judged)),
    }
    return figures


def failures(judged: Iterable[Judged]) -> Iterable[dict[str, Any]]:
    """Yield what was judged otherwise than labelled."""
    for item in judged:
        kind = failure(item)
        if kind is not None:
            verdict = item.scored.verdict
            yield {
                "id": item.case.id,
                "kind": kind,
                "policy": item.case.policy,
                "outcome": verdict.outcome.value,
                "fraction": round(verdict.fraction, 4),
                "reason": verdict.reason,
            }


def rates(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return number, accuracy and rates of error of labelled cases."""
    kinds = Counter(map(failure, judged))
    right = sum((item.case.expected or 0) >= 1.0 for item in judged)
    return {
        "n": len(judged),
        "accuracy": _rate(kinds[None], len(judged)),
        "false_positive_rate": _rate(kinds[FALSE_POSITIVE], len(judged) - right),
        "false_negative_rate": _rate(kinds[FALSE_NEGATIVE], right),
        "false_positives": kinds[FALSE_POSITIVE],
        "false_negatives": kinds[FALSE_NEGATIVE],
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed; 0 of none.

    Example:
        >>> quantile([3.0, 1.0, 2.0], 0.5), quantile([1.0], 0.99)
        (2.0, 1.0)
    """
    if len(values) < 2:
        return next(iter(values), 0.0)
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def _of_kind(judged: Sequence[Judged]) -> dict[str, int]:
    attacks = [item for item in judged if item.case.kind == ATTACK]
    benign = [item for item in judged if item.case.kind == BENIGN]
    return {
        "attacks": len(attacks),
        "attacks_rewarded": sum(item.paid for item in attacks),
        "benign": len(benign),
        "benign_refused": sum(not item.accepted for item in benign),
    }


def _agreement(judged: Sequence[Judged]) -> dict[str, float]:
    """Return how often the share that is right is the labelled one, where both may be shares."""
    outcomes = {item.scored.verdict.outcome for item in judged}
    if all(item.case.expected in (0, 1) for item in judged) or Outcome.PARTIAL not in outcomes:
        return {}
    same = sum(
        abs(item.scored.verdict.fraction - (item.case.expected or 0.0)) <= SAME_SHARE
        for item in judged
    )
    return {"same_share": _rate(same, len(judged)) or 0.0}


def _by(judged: Sequence[Judged], tag: str) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Judged]] = {}
    for item in judged:
        if tag in item.case.tags:
            groups.setdefault(item.case.tags[tag], []).append(item)
    return {name: rates(group) for name, group in sorted(groups.items())}


def _is_labelled(item: Judged) -> bool:
    return item.case.expected is not None and item.case.kind != DATA_ERROR


def _is_scored(item: Judged) -> bool:
    return item.scored.verdict.outcome is not Outcome.SKIPPED


def _rate(count: int, total: int) -> float | None:
    return round(count / total, 6) if total else None
