"""`rlvr reward test`: does a verifier hold to what every reward should, as a table and an exit code."""

import json
from collections.abc import Sequence
from typing import Any

from rlvr.console import console_for_tables, plain_table, plural, say
from rlvr.reward.contract import FAILED, NOT_APPLICABLE, PASSED, Result, check
from rlvr.reward.example import OPTIONS, load_examples
from rlvr.reward.trial import Trial
from rlvr.reward.verifier import parse_options

WIDE = 140  # characters of a line in a file
_STYLES = {PASSED: "green", FAILED: "bold red", NOT_APPLICABLE: "dim"}


def try_out(
    verifier: str,
    *,
    data: str | None = None,
    options: Sequence[str] = (),
    workers: int | None = None,
    as_json: bool = False,
) -> bool:
    """Check a verifier, print a table or one JSON object, and return whether all checks passed.

    Args:
        verifier: Name, or `file.py:function`.
        data: Rows; None: built-in ones.
        options: Of the verifier, `KEY=VALUE` or JSON.
        workers: Processes; None: one a core.
        as_json: Print one JSON object and nothing else.

    Raises:
        ValueError: For an unknown verifier or option, data that cannot be read, or a function that
            cannot be imported.
    """
    assumed = OPTIONS.get(verifier, {}) if data is None else {}
    chosen = {verifier: {**assumed, **parse_options(options)}}
    trial = Trial(chosen, load_examples(verifier, data), workers)
    with trial:
        results = list(check(trial))
    passed = all(result.state != FAILED for result in results)
    if as_json:
        say(json.dumps(_figures(verifier, results, passed=passed)))
    else:
        _show(verifier, trial, results)
    return passed


def _figures(verifier: str, results: Sequence[Result], *, passed: bool) -> dict[str, Any]:
    checks = [vars(result) for result in results]
    return {"verifier": verifier, "passed": passed, "checks": checks}


def _show(verifier: str, trial: Trial, results: Sequence[Result]) -> None:
    from rich.text import Text

    say(f"reward    {verifier} on {plural(len(trial.given), 'row')}")
    table = plain_table("check", "", "")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for result in results:
        style = _STYLES[result.state]
        table.add_row(Text(result.name), Text(result.state, style), Text(result.detail))
    console_for_tables(WIDE).print(table)
    counts = {state: sum(result.state == state for result in results) for state in _STYLES}
    say("result    " + ", ".join(f"{count} {state}" for state, count in counts.items()))
