"""Metric names, units and the page about them."""

from pathlib import Path

import pytest

from rlvr.monitor import metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_says_what_the_code_says() -> None:
    assert DOCS.read_text("utf-8") == metrics.markdown(), (
        "run: python -m rlvr.monitor.metrics > docs/metrics.md"
    )


def test_every_metric_describes_itself() -> None:
    for metric in metrics.METRICS:
        name = metric.name.replace("<k>", "8")
        name = name.replace("<control>", "clip_cov").replace("<what>", "dropped")
        name = name.replace("<", "").replace(">", "")
        assert metrics.describe(name) is metric


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("entropy", "nats"),
        ("eval/MATH-500/pass@16", "0..1"),
        ("eval/MATH-500/pass@16/low", "0..1"),
        ("kl_cov/selected_fraction", "0..1"),
        ("rewards/math", "score"),
        ("time/update", "seconds"),
        ("time/verifier/math/p99", "seconds"),
        ("verifier/judge_2/failed_fraction", "0..1"),
    ],
)
def test_units_are_found_for_names_with_placeholders(name: str, unit: str) -> None:
    assert metrics.unit(name) == unit


@pytest.mark.parametrize("name", ["verdict/typo", "eval/pass@1", "eval/x/pass@k", "entropi", ""])
def test_unknown_names_have_no_description(name: str) -> None:
    assert metrics.describe(name) is None
