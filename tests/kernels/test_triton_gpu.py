"""The compiled Triton kernels agree with float64 on a GPU; what the interpreter cannot show: low precision, sizes, launches."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.kernels.cases import (
    ENTROPY_BAR,
    LOGPROB_BAR,
    Case,
    Run,
    assert_exact,
    assert_same,
    case,
    relative,
    run,
    worst,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
DEVICE = "cuda"
# as exact as the gradient by logits rounded once, and the result once
LOW_BARS = {torch.bfloat16: 3e-3, torch.float16: 1e-3}
ALL_ROWS = 2**33
CACHES = pytest.mark.parametrize("cache_bytes", [0, ALL_ROWS], ids=["again", "cached"])


def there(inputs: Case, dtype: torch.dtype) -> Case:
    """Return a case on the GPU."""
    own = inputs.to(dtype)
    g, e = (None if t is None else t.to(DEVICE) for t in (own.of_logprobs, own.of_entropies))
    return replace(
        own,
        tensors={name: tensor.to(DEVICE) for name, tensor in own.tensors.items()},
        targets=own.targets.to(DEVICE),
        of_logprobs=g,
        of_entropies=e,
    )


def assert_near(found: Run, truth: Run, bar: float) -> None:
    assert worst(found.result.logprobs, truth.result.logprobs) <= LOGPROB_BAR
    assert worst(found.result.entropies, truth.result.entropies) <= ENTROPY_BAR * 10
    for name, gradient in truth.gradients.items():
        assert relative(found.gradients[name], gradient) <= bar, name


@CACHES
@pytest.mark.parametrize("dtype", LOW_BARS, ids=["bf16", "fp16"])
@pytest.mark.parametrize("hidden", [896, 2048, 100])
@pytest.mark.parametrize(
    "extras", [{}, {"bias": True, "rank": 8, "softcap": 20.0, "temperature": 0.7}], ids=["", "all"]
)
def test_low_precision_is_right(
    extras: dict[str, Any], hidden: int, dtype: torch.dtype, cache_bytes: int
) -> None:
    inputs = there(case(515, 5003, hidden, **extras), dtype)
    truth = run(inputs.to(torch.float64), "naive")
    found = run(inputs, "triton", cache_bytes=cache_bytes)
    assert_near(found, truth, LOW_BARS[dtype])
    assert_same(found, run(inputs, "triton", cache_bytes=cache_bytes))


@CACHES
def test_float32_is_not_tf32(cache_bytes: int) -> None:
    inputs = there(case(130, 1031, 200, bias=True), torch.float32)
    assert_exact(inputs, run(inputs, "triton", cache_bytes=cache_bytes))


@CACHES
@pytest.mark.parametrize("hidden", [896, 2048])
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 9,
    reason="needs a GPU that copies boxes: Hopper or later",
)
def test_descriptors_are_right(
    hidden: int, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlvr.kernels import launch

    inputs = there(case(515, 5003, hidden), torch.bfloat16)
    described = [
        entry._replace(tile=replace(entry.tile, variant="descriptor")) for entry in launch.TABLE
    ]
    monkeypatch.setattr(launch, "TABLE", described)
    truth = run(inputs.to(torch.float64), "naive")
    found = run(inputs, "triton", cache_bytes=cache_bytes)
    assert_near(found, truth, LOW_BARS[torch.bfloat16])


@CACHES
def test_more_logits_than_32_bits_count(cache_bytes: int) -> None:
    # 16384 x 151936 = 2.5e9 > 2^31; of a cache of 5 GB the last rows lie beyond
    rows, vocabulary, few = 16384, 151936, 64
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        made = torch.randn(*shape, generator=generator, device=DEVICE)
        return made.to(torch.bfloat16)

    targets = torch.arange(rows, device=DEVICE) * 9 % vocabulary
    targets[-1] = vocabulary - 1
    ones = torch.ones(rows, device=DEVICE)
    tensors = {"hidden": normal(rows, 128), "weight": normal(vocabulary, 128) / 8}
    inputs = Case(tensors, targets, of_logprobs=ones, of_entropies=ones)
    found = run(inputs, "triton", learning=["hidden"], cache_bytes=cache_bytes)
    for part in (slice(0, few), slice(rows - few, rows)):
        own = replace(
            inputs,
            tensors=tensors | {"hidden": tensors["hidden"][part]},
            targets=targets[part],
            of_logprobs=ones[part],
            of_entropies=ones[part],
        )
        truth = run(own.to(torch.float64), "naive", learning=["hidden"])
        assert worst(found.result.logprobs[part], truth.result.logprobs) <= LOGPROB_BAR
        error = relative(found.gradients["hidden"][part], truth.gradients["hidden"])
        assert error <= LOW_BARS[torch.bfloat16]
