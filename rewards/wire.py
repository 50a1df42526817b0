"""How the pool and its workers talk: one JSON object a line, over sockets, nothing but text.

Text cannot carry code (as pickle can), and a torn line is seen as such.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.rewards.verdict import Outcome, Sample, Verdict


def pack(message: Mapping[str, Any]) -> bytes:
    """Return the message as one line."""
    # ASCII escapes carry lone surrogates, which UTF-8 cannot
    return json.dumps(message, default=_plain, skipkeys=True).encode("ascii") + b"\n"


def unpack(line: bytes) -> dict[str, Any]:
    """Return the message of one line."""
    return json.loads(line)


def sample_item(sample: Sample, columns: tuple[str, ...] | None) -> bytes:
    """Return what a verifier needs of a sample.

    Args:
        sample: The completion and its row.
        columns: Of the row; "prompt" too. None: everything. With a choice of columns, equal
            answers give equal items: neither length nor truncation is in them.
    """
    if columns is not None:
        sample = Sample(
            sample.prompt if "prompt" in columns else "",
            sample.completion,
            sample.answer,
            {name: sample.row[name] for name in columns if name in sample.row},
        )
    return pack(vars(sample) | {"row": dict(sample.row)}).rstrip()


def request_line(verifier: int, items: Sequence[bytes]) -> bytes:
    """Return the line that asks a worker for verdicts on packed samples."""
    return b'{"verifier": %d, "samples": [%s]}\n' % (verifier, b", ".join(items))


def verdict_message(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as a message."""
    return {
        "outcome": verdict.outcome,
        "fraction": verdict.fraction,
        "reason": verdict.reason,
        "seconds": verdict.seconds,
        "value": verdict.value,
    }


def verdict_from(message: Mapping[str, Any]) -> Verdict:
    """Return the verdict that a message carries."""
    return Verdict(
        Outcome(message["outcome"]),
        message["fraction"],
        message["reason"],
        message["seconds"],
        message["value"],
    )


def _plain(value: Any) -> Any:
    # arrays and numpy scalars of a data set's row; anything else as its text
    return value.tolist() if hasattr(value, "tolist") else str(value)
