"""What is wrong is named, with what was given and what is allowed; shapes of records are checked in this run."""

from typing import Any

import pytest
import torch

from rlvr.kernels.chunked import Kept, Upstream
from rlvr.kernels.linear import Certificate, LowRank, choose, linear_logprob_entropy
from rlvr.kernels.projection import IGNORED, Projection

ROWS, VOCABULARY, WIDTH = 3, 5, 4


def call(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "hidden": torch.zeros(ROWS, WIDTH),
        "weight": torch.zeros(VOCABULARY, WIDTH),
        "targets": torch.zeros(ROWS, dtype=torch.long),
    }
    return linear_logprob_entropy(**(given | changes))


def low_rank(rows: int = ROWS, vocabulary: int = VOCABULARY, **dtype: Any) -> LowRank:
    return LowRank(torch.zeros(rows, 2, **dtype), torch.zeros(vocabulary, 2, **dtype))


# shapes that the annotations of the function refuse first, in this run, are checked below without them
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "weight in float64": (
        {"weight": torch.zeros(VOCABULARY, WIDTH, dtype=torch.float64)},
        "hidden is torch.float32 and weight torch.float64; both are float64, or neither",
    ),
    "hidden in float64": (
        {"hidden": torch.zeros(ROWS, WIDTH, dtype=torch.float64)},
        "hidden is torch.float64 and weight torch.float32; both are float64, or neither",
    ),
    "hidden in float8": (
        {"hidden": torch.zeros(ROWS, WIDTH, dtype=torch.float8_e4m3fn)},
        "hidden is torch.float8_e4m3fn; it is float32, bfloat16, float16 or float64",
    ),
    "weight in float8": (
        {"weight": torch.zeros(VOCABULARY, WIDTH, dtype=torch.float8_e4m3fn)},
        "weight is torch.float8_e4m3fn; it is float32, bfloat16, float16 or float64",
    ),
    "bias in float8": (
        {"bias": torch.zeros(VOCABULARY, dtype=torch.float8_e4m3fn)},
        "bias is torch.float8_e4m3fn; it is",
    ),
    "targets in int32": (
        {"targets": torch.zeros(ROWS, dtype=torch.int32)},
        "targets is torch.int32; it is int64",
    ),
    "a target beyond the vocabulary": (
        {"targets": torch.tensor([0, VOCABULARY, IGNORED])},
        "targets has 5; ids are 0 to 4, or -100 for a token that is left out",
    ),
    "a negative target": ({"targets": torch.tensor([0, -1, 2])}, "targets has -1; ids are 0 to 4"),
    "no vocabulary": (
        {"weight": torch.zeros(0, WIDTH), "targets": torch.full((ROWS,), IGNORED)},
        r"weight is \(0, 4\); there is a token at least",
    ),
    "temperature 0": ({"temperature": 0.0}, "temperature is 0.0; it is a number above 0"),
    "temperature below 0": ({"temperature": -1}, "temperature is -1; it is a number above 0"),
    "temperature nan": ({"temperature": float("nan")}, "temperature is nan; it is a number above"),
    "a temperature 0": (
        {"temperature": torch.tensor([1.0, 0.0, 1.0])},
        "temperature has 0.0; every one is a number above 0",
    ),
    "an infinite temperature": (
        {"temperature": torch.tensor([1.0, 1.0, torch.inf])},
        "temperature has inf; every one is",
    ),
    "temperature that learns": (
        {"temperature": torch.ones(ROWS, requires_grad=True)},
        r"temperature requires a gradient, and gets none here; pass temperature.detach\(\)",
    ),
    "softcap 0": ({"softcap": 0.0}, "softcap is 0.0; it is a number above 0, or None"),
    "softcap inf": ({"softcap": float("inf")}, "softcap is inf; it is a number above 0, or None"),
    "logit_scale nan": ({"logit_scale": float("nan")}, "logit_scale is nan; it is a finite number"),
    "cache_bytes": ({"cache_bytes": -1}, "cache_bytes is -1; it is 0 or more, or None"),
    "another device": (
        {"weight": torch.zeros(VOCABULARY, WIDTH, device="meta")},
        "weight is on meta and hidden on cpu; move one of them",
    ),
    "a bias on another device": (
        {"bias": torch.zeros(VOCABULARY, device="meta")},
        "bias is on meta and hidden on cpu",
    ),
    "live on another device": (
        {"live": torch.ones(ROWS, dtype=torch.bool, device="meta")},
        "live is on meta and hidden on cpu",
    ),
    "temperature on another device": (
        {"temperature": torch.ones(ROWS, device="meta")},
        "temperature is on meta and hidden on cpu",
    ),
    "an adapter on another device": (
        {"low_rank": low_rank(device="meta")},
        "low_rank.hidden is on meta and hidden on cpu",
    ),
    "an adapter of another vocabulary": (
        {"low_rank": low_rank(vocabulary=6)},
        r"low_rank.weight is \(6, 2\); it is \(5, 2\) here",
    ),
    "an adapter of other rows": (
        {"low_rank": low_rank(rows=2)},
        r"low_rank.hidden is \(2, 2\); it is \(3, 2\) here",
    ),
    "an unknown statistic": (
        {"statistics": ["sum_p3"]},
        "unknown statistic 'sum_p3'. Did you mean 'sum_p2'?",
    ),
    "a parameter of a statistic": (
        {"statistics": ["top_k_mass:0"]},
        "statistic 'top_k_mass:0': K is 0; it is an integer above 0",
    ),
    "triton on a cpu": (
        {"impl": "triton"},
        r"impl is 'triton' and hidden is on cpu; it needs a GPU \(or TRITON_INTERPRET=1",
    ),
    "triton and whole rows": (
        {"impl": "triton", "statistics": ["sum_p2", "top_k_mass:3"]},
        "impl is 'triton', which does not make top_k_mass:3: they need whole rows. Use 'auto' or",
    ),
    "triton and float64": (
        {
            "impl": "triton",
            "hidden": torch.zeros(ROWS, WIDTH, dtype=torch.float64),
            "weight": torch.zeros(VOCABULARY, WIDTH, dtype=torch.float64),
        },
        "hidden is torch.float64; impl='triton' takes float32, bfloat16 or float16. Use 'auto' or",
    ),
    "a cache and a certificate": (
        {"cache_bytes": 1, "certificate": Certificate(0.1)},
        "cache_bytes is 1, but with a certificate nothing is kept for backward",
    ),
    "naive and a certificate": (
        {"impl": "naive", "certificate": Certificate(0.1)},
        "impl is 'naive', which leaves nothing out; with a certificate use 'auto', 'chunked' or",
    ),
    "a certificate and a gradient of a statistic": (
        {"statistics": ["sum_p2", "top_p_entropy:0.8"], "certificate": Certificate(0.1)},
        "a certificate has no bound for the gradient of top_p_entropy:0.8; leave out one of the two",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_with_what_is_allowed(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    changes, message = WRONG[what]
    with pytest.raises(ValueError, match=message) as caught:
        call(**changes)
    assert "statistic" in what or str(caught.value).startswith("linear_logprob_entropy: ")


SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "hidden": (
        {"hidden": torch.zeros(ROWS, 7)},
        r"hidden is \(3, 7\) and weight \(5, 4\); they are \(..., H\) and \(V, H\)",
    ),
    "weight": (
        {"weight": torch.zeros(WIDTH)},
        r"weight \(4,\); they are \(..., H\) and \(V, H\)",
    ),
    "targets": (
        {"targets": torch.zeros(2, dtype=torch.long)},
        r"targets is \(2,\); it is \(3,\) here",
    ),
    "bias": ({"bias": torch.zeros(4)}, r"bias is \(4,\); it is \(5,\) here"),
    "live": ({"live": torch.ones(3, 1, dtype=torch.bool)}, r"live is \(3, 1\); it is \(3,\) here"),
    "temperature": ({"temperature": torch.ones(())}, r"temperature is \(\); it is \(3,\) here"),
    "temperature in int64": (
        {"temperature": torch.ones(ROWS, dtype=torch.long)},
        "temperature is torch.int64; it is a floating-point number",
    ),
    "live in float32": ({"live": torch.ones(ROWS)}, "live is torch.float32; it is bool"),
    "impl": (
        {"impl": "tritn"},
        "unknown impl 'tritn'. Did you mean 'triton'? Known: auto, chunked, naive, triton.",
    ),
    "statistics": (
        {"statistics": "sum_p2"},
        r"statistics is 'sum_p2'; it is a list: \['sum_p2'\]",
    ),
}

_UNCHECKED = """
import sys, pickle
from rlvr.kernels.linear import linear_logprob_entropy
for given in pickle.load(sys.stdin.buffer):
    try:
        linear_logprob_entropy(**given)
        print("accepted")
    except ValueError as error:
        print(error)
"""


def test_so_are_shapes_where_no_test_run_checks_them() -> None:
    """In another process: here the annotations refuse these first."""
    import pickle
    import re
    import subprocess
    import sys

    base = {
        "hidden": torch.zeros(ROWS, WIDTH),
        "weight": torch.zeros(VOCABULARY, WIDTH),
        "targets": torch.zeros(ROWS, dtype=torch.long),
    }
    given = pickle.dumps([base | changes for changes, _ in SHAPES.values()])
    done = subprocess.run(
        [sys.executable, "-c", _UNCHECKED], input=given, capture_output=True, check=True
    )
    said = done.stdout.decode().splitlines()
    for line, (_, message) in zip(said, SHAPES.values(), strict=True):
        assert line.startswith("linear_logprob_entropy: ")
        assert re.search(message.replace("?", r"\?"), line), line


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, float("nan")])
def test_a_tolerance_is_a_share(tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance is {tolerance}; it is a share, above 0 and"):
        Certificate(tolerance)


def test_a_wrong_number_in_a_row_that_is_left_out_does_no_harm() -> None:
    found = call(targets=torch.tensor([0, IGNORED, 1]), temperature=torch.tensor([1.0, 0.0, 1.0]))
    assert found.logprobs.isfinite().all()


def test_what_a_call_would_take_can_be_asked_before() -> None:
    """A recipe is checked with tensors of one number, before a model is loaded."""
    one = torch.empty(1, 1)
    with pytest.raises(ValueError, match="a certificate has no bound for the gradient of"):
        choose(one, one, 10**9, ["nucleus_entropy:0.9"], has_certificate=True)
    with pytest.raises(ValueError, match="unknown statistic"):
        choose(one, one, 10**9, ["entropy"])
    assert choose(one, one, 10**9) == "chunked"


def test_plain_pytorch_does_not_keep_a_weight_that_zero3_divides() -> None:
    from enum import Enum

    weight = torch.nn.Parameter(torch.zeros(VOCABULARY, WIDTH))
    weight.ds_status = Enum("ZeroParamStatus", ["AVAILABLE"]).AVAILABLE  # type: ignore[attr-defined]
    hidden = torch.zeros(ROWS, WIDTH)
    assert choose(hidden, weight, 1) == "chunked"
    with pytest.raises(ValueError, match="would keep the whole weight that ZeRO-3 divides"):
        choose(hidden, weight, 1, impl="naive")


def test_a_second_derivative_is_refused() -> None:
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    found = call(hidden=hidden, impl="chunked")
    (first,) = torch.autograd.grad(found.entropies.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_logprob_backward"):
        first.sum().backward()


def test_records_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="weight"):
        Projection(torch.zeros(3, 4), torch.zeros(5, 3))
    rows = torch.zeros(3)
    with pytest.raises(TypeError, match="entropies"):
        Upstream(
            *(torch.zeros(3, dtype=torch.long), rows, torch.zeros(3, 1), rows, rows),
            of_entropies=None,
            of_statistics={},
        )
    # the maxima are those of every row that forward saw, not of the kept ones
    Kept(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long), torch.zeros(4, 7))
