"""Log-probs, entropies and statistics of tokens from hidden states and the head, without the logits in memory.

    from rlvr.kernels.linear import linear_logprob_entropy

| implementation | what it is | when |
|---|---|---|
| `triton`  | one kernel makes a tile of logits and folds it in registers | CUDA, bfloat16 or float16 |
| `chunked` | PyTorch, a tile at a time | CPU, float32, float64, whole-row statistics, other devices |
| `naive`   | plain PyTorch, all logits in memory | few logits; the truth in tests |
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlvr.kernels import naive
from rlvr.kernels.certified import BLOCK, Report
from rlvr.kernels.op import linear_logprob
from rlvr.kernels.partials import SQUARES
from rlvr.kernels.projection import IGNORED, LOW_PRECISION, compute_dtype
from rlvr.kernels.sharded import belongs_to_zero3, gathered, local
from rlvr.kernels.statistics import carries_gradient, parse
from rlvr.suggest import unknown_name

Implementation = Literal["auto", "triton", "chunked", "naive"]

FLOATS = (torch.float32, torch.float64, *LOW_PRECISION)
_FLOAT_NAMES = "float32, bfloat16, float16 or float64"
FEW_LOGITS = 2**20
"""Up to so many, calls cost more than what they compute: `auto` takes plain PyTorch."""
CPU_CACHE = 256 * 2**10
"""Bytes for each number of a hidden state: the wider it is, the dearer are logits to make again. 128 MiB at H = 512."""
GPU_CACHE, GPU_CACHE_SHARE = 8 * 2**30, 0.25
_NAME = "linear_logprob_entropy"


@dataclass(frozen=True)
class LowRank:
    """An adapter of the head, as LoRA makes it: it adds u Bᵀ to x Wᵀ."""

    hidden: Float[Tensor, "*batch R"]
    """u: hidden states through the adapter's first matrix, times its scale."""
    weight: Float[Tensor, "V R"]
    """B: its second matrix."""


@dataclass(frozen=True)
class Certificate:
    """Lets backward leave out work under a bound; see `rlvr.kernels.certified`. The report is of the last backward."""

    tolerance: float
    """Share of the L1 norm of the gradient by the logits that may be left out, in (0, 1); 2^-10 is a good one."""
    _values: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64), repr=False)

    def __post_init__(self) -> None:
        """Check the tolerance."""
        if not 0 < self.tolerance < 1:
            raise ValueError(
                f"Certificate: tolerance is {self.tolerance}; it is a share, above 0 and below 1"
            )

    @property
    def report(self) -> Report:
        """What backward left out; zeros before it has run."""
        left_out, whole, made, tiles = self._values.tolist()
        return Report(left_out, whole, int(made), int(tiles))


class Result(NamedTuple):
    """Of every token, in the shape of the targets: float32, or float64 for float64 hidden states; 0 where ignored."""

    logprobs: Float[Tensor, "*batch"]
    """ln p of the target, nats, with gradient."""
    entropies: Float[Tensor, "*batch"]
    """-Σ p ln p, nats, with gradient."""
    statistics: dict[str, Float[Tensor, "*batch"]]
    """By name; those that carry gradient have one."""


def linear_logprob_entropy(
    hidden: Float[Tensor, "*batch H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, "*batch"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    temperature: float | Float[Tensor, "*batch"] = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    statistics: Sequence[str] = (),
    low_rank: LowRank | None = None,
    live: Bool[Tensor, "*batch"] | None = None,
    cache_bytes: int | None = None,
    certificate: Certificate | None = None,
    impl: Implementation = "auto",
) -> Result:
    """Return log-probs, entropies and statistics of softmax(cap tanh(scale (x Wᵀ + b) / cap) / T).

    Logits are summed and used in float32 (float64 for float64 hidden states), never rounded to less. In backward, rows
    whose upstream gradients are all 0 cost nothing, and their gradient is exactly 0. Each parameter's gradient is
    written once, in its own dtype. Two runs give the same bits.

    Args:
        hidden: Last hidden states, float32, bfloat16, float16 or float64. Under autocast of a GPU they and the head are
            multiplied in its dtype.
        weight: The head; may be frozen, tied, sharded by ZeRO-3 (gathered once in each direction) or by FSDP2.
        targets: Token ids, int64; `IGNORED` (-100) for tokens that are left out.
        bias: Of the head; -inf for a token that cannot be (as a target its log-prob is about -1e30).
        temperature: T > 0, one for all or one a token; without gradient.
        softcap: cap > 0; None: none.
        logit_scale: Multiplies the logits before the cap.
        statistics: Names in `rlvr.kernels.statistics`.
        low_rank: An adapter of the head.
        live: Tokens expected to have a gradient: only their logits are kept for backward. A hint; None: all tokens.
        cache_bytes: Memory for logits kept for backward, which need not be made again; None: 256 KiB x H on a CPU, else
            a quarter of what is free, 8 GiB at most. Not used with a certificate.
        certificate: Lets backward leave out work under a bound; not where a statistic carries gradient.
        impl: See the module; `auto` chooses.

    Raises:
        ValueError: For shapes, dtypes, values or combinations that are not allowed.

    Example:
        >>> linear_logprob_entropy(torch.ones(1, 2), torch.zeros(4, 2), torch.tensor([3])).entropies
        tensor([1.3863])
    """
    weight, bias = _whole(weight), local(bias)
    low_weight = None if low_rank is None else low_rank.weight
    compiling = torch.compiler.is_compiling()
    with nullcontext() if compiling else gathered(weight, bias, low_weight):
        _check_tensors(hidden, weight, targets, bias, low_rank, live)
        _check_numbers(temperature, softcap, logit_scale, targets, hidden.device)
        _check_targets(targets, weight.shape[0])
        if cache_bytes is not None and cache_bytes < 0:
            raise ValueError(f"{_NAME}: cache_bytes is {cache_bytes}; it is 0 or more, or None")
        if cache_bytes and certificate is not None:
            raise ValueError(
                f"{_NAME}: cache_bytes is {cache_bytes}, but with a certificate nothing is kept for backward; leave out one "
                "of the two"
            )
        chosen = choose(
            hidden, weight, targets.numel(), statistics, certificate is not None, impl=impl
        )
        shape, size = targets.shape, targets.numel()
        flat = hidden.reshape(size, hidden.shape[-1])
        low_hidden = None
        if low_rank is not None:
            low_hidden = low_rank.hidden.reshape(size, low_rank.hidden.shape[-1])
        number, temperatures = 1.0, None
        if isinstance(temperature, Tensor):
            # the slope of the logits by the products is made of it: in less it would be rounded
            temperatures = temperature.reshape(size).to(compute_dtype(hidden.dtype))
        else:
            number = float(temperature)
        if chosen == "naive":
            logprobs, entropies, found = naive.linear_logprob_entropy(
                flat,
                weight,
                targets.reshape(size),
                bias=bias,
                low_hidden=low_hidden,
                low_weight=low_weight,
                temperature=number if temperatures is None else temperatures,
                softcap=softcap,
                logit_scale=logit_scale,
                statistics=statistics,
            )
            values = [found[name] for name in statistics]
        else:
            trained = (flat, weight, bias, low_hidden, low_weight)
            learns = torch.is_grad_enabled() and any(
                t is not None and t.requires_grad for t in trained
            )
            dtype = operand_dtype(hidden)
            rows = 0
            if learns and certificate is None:
                rows = _cache_rows(cache_bytes, weight, chosen, dtype)
            logprobs, entropies, stacked, *_ = linear_logprob(
                *trained,
                targets.reshape(size),
                None if live is None else live.reshape(size),
                temperatures,
                number,
                softcap,
                float(logit_scale),
                dtype,
                ",".join(statistics),
                chosen,
                rows,
                BLOCK if certificate is not None and learns else 0,
                0.0 if certificate is None else certificate.tolerance,
                # backward writes to it, once for each call that shares it
                None if certificate is None else certificate._values.data,
            )
            values = [
                row if carries_gradient(name) else row.detach()
                for name, row in zip(statistics, stacked, strict=True)
            ]
    return Result(
        logprobs.reshape(shape),
        entropies.reshape(shape),
        {name: value.reshape(shape) for name, value in zip(statistics, values, strict=True)},
    )


def choose(
    hidden: Tensor,
    weight: Tensor,
    rows: int,
    statistics: Sequence[str] = (),
    has_certificate: bool = False,
    *,
    impl: Implementation = "auto",
) -> str:
    """Return the implementation that a call takes: `triton`, `chunked` or `naive`.

    Args:
        hidden: (..., H).
        weight: (V, H).
        rows: N.
        statistics: Names.
        has_certificate: Whether backward may leave out work.
        impl: What is asked for.

    Raises:
        ValueError: If there is none of this name, or it cannot do what is asked for.
    """
    known = get_args(Implementation)
    if impl not in known:
        raise ValueError(f"{_NAME}: {unknown_name('impl', impl, known)}")
    if isinstance(statistics, str):
        raise ValueError(f"{_NAME}: statistics is {statistics!r}; it is a list: [{statistics!r}]")
    for name in statistics:
        parse(name)
    whole = [name for name in statistics if name not in SQUARES]
    if has_certificate:
        carried = [name for name in statistics if carries_gradient(name)]
        if carried:
            raise ValueError(
                f"{_NAME}: a certificate has no bound for the gradient of {', '.join(carried)}; leave out one of the two"
            )
        if impl == "naive":
            raise ValueError(
                f"{_NAME}: impl is 'naive', which leaves nothing out; with a certificate use 'auto', 'chunked' or 'triton'"
            )
    if impl == "naive" and belongs_to_zero3(weight):
        raise ValueError(
            f"{_NAME}: impl is 'naive', which would keep the whole weight that ZeRO-3 divides; use 'auto' or 'chunked'"
        )
    if impl == "triton":
        _check_triton(hidden, whole)
    if impl != "auto":
        return impl
    few = rows * weight.shape[0] <= FEW_LOGITS
    if few and not has_certificate and not belongs_to_zero3(weight):
        return "naive"
    on_gpu = hidden.device.type == "cuda"
    fits = on_gpu and operand_dtype(hidden) in LOW_PRECISION and not whole
    return "triton" if fits and find_spec("triton") is not None else "chunked"


def operand_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype in which hidden states and head are multiplied.

    On a CPU products of low precision are slow and rounded: there it is float32.
    """
    kind = hidden.device.type
    if hidden.dtype == torch.float64:
        return torch.float64
    if kind == "cpu":
        return torch.float32
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _whole(weight: Tensor) -> Tensor:
    whole = local(weight)
    assert whole is not None  # a weight is not None
    return whole


def _cache_rows(cache_bytes: int | None, weight: Tensor, impl: str, dtype: torch.dtype) -> int:
    """Return how many rows of logits may be kept."""
    if cache_bytes is None:
        cache_bytes = CPU_CACHE * weight.shape[1]
        if weight.device.type == "cuda":
            free = torch.cuda.mem_get_info(weight.device)[0]
            cache_bytes = min(GPU_CACHE, int(free * GPU_CACHE_SHARE))
    size = dtype.itemsize if impl == "triton" or dtype == torch.float64 else 4
    return cache_bytes // (weight.shape[0] * size)


def _check_triton(hidden: Tensor, whole: Sequence[str]) -> None:
    if whole:
        raise ValueError(
            f"{_NAME}: impl is 'triton', which does not make {', '.join(whole)}: they need whole rows. Use 'auto' or 'chunked'"
        )
    if hidden.dtype == torch.float64:
        raise ValueError(
            f"{_NAME}: hidden is torch.float64; impl='triton' takes float32, bfloat16 or float16. Use 'auto' or 'chunked'"
        )
    if find_spec("triton") is None:
        raise ValueError(
            f"{_NAME}: impl is 'triton', which is not installed. Use 'auto' or 'chunked'"
        )
    from triton import knobs

    if hidden.device.type == "cpu" and not knobs.runtime.interpret:
        raise ValueError(
            f"{_NAME}: impl is 'triton' and hidden is on cpu; it needs a GPU (or TRITON_INTERPRET=1, to try it out). Use "
            "'auto' or 'chunked'"
        )


def _check_tensors(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    low_rank: LowRank | None,
    live: Tensor | None,
) -> None:
    if hidden.dtype not in FLOATS:
        raise _refused("hidden", hidden, _FLOAT_NAMES)
    if weight.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{_NAME}: hidden is {tuple(hidden.shape)} and weight {tuple(weight.shape)}; they are (..., H) and (V, H)"
        )
    if weight.shape[0] == 0:
        raise ValueError(f"{_NAME}: weight is {tuple(weight.shape)}; there is a token at least")
    if (hidden.dtype == torch.float64) != (weight.dtype == torch.float64):
        raise ValueError(
            f"{_NAME}: hidden is {hidden.dtype} and weight {weight.dtype}; both are float64, or neither"
        )
    if targets.dtype != torch.int64:
        raise _refused("targets", targets, "int64")
    if live is not None and live.dtype != torch.bool:
        raise _refused("live", live, "bool")
    parts = {"weight": weight, "targets": targets, "bias": bias, "live": live}
    _same_shape("targets", targets, hidden.shape[:-1])
    if bias is not None:
        _same_shape("bias", bias, weight.shape[:1])
    if live is not None:
        _same_shape("live", live, targets.shape)
    if low_rank is not None:
        rank = low_rank.weight.shape[-1]
        _same_shape("low_rank.weight", low_rank.weight, (weight.shape[0], rank))
        _same_shape("low_rank.hidden", low_rank.hidden, (*targets.shape, rank))
        parts |= {"low_rank.hidden": low_rank.hidden, "low_rank.weight": low_rank.weight}
    for name, tensor in parts.items():
        if tensor is None:
            continue
        if name not in ("targets", "live") and tensor.dtype not in FLOATS:
            raise _refused(name, tensor, _FLOAT_NAMES)
        _same_device(name, tensor, hidden.device)


def _check_numbers(
    temperature: float | Tensor,
    softcap: float | None,
    logit_scale: float,
    targets: Tensor,
    device: torch.device,
) -> None:
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"{_NAME}: softcap is {softcap}; it is a number above 0, or None")
    if not -math.inf < logit_scale < math.inf:
        raise ValueError(f"{_NAME}: logit_scale is {logit_scale}; it is a finite number")
    if not isinstance(temperature, Tensor):
        if not 0 < temperature < math.inf:
            raise ValueError(f"{_NAME}: temperature is {temperature}; it is a number above 0")
        return
    if not temperature.is_floating_point():
        raise _refused("temperature", temperature, "a floating-point number")
    _same_shape("temperature", temperature, targets.shape)
    _same_device("temperature", temperature, device)
    if temperature.requires_grad:
        raise ValueError(
            f"{_NAME}: temperature requires a gradient, and gets none here; pass temperature.detach()"
        )
    if _can_look(temperature):
        wrong = temperature[~((temperature > 0) & temperature.isfinite()) & (targets != IGNORED)]
        if len(wrong):
            raise ValueError(
                f"{_NAME}: temperature has {float(wrong[0])}; every one is a number above 0"
            )


def _check_targets(targets: Tensor, vocabulary: int) -> None:
    if not _can_look(targets):
        return
    wrong = targets[(targets != IGNORED) & ((targets < 0) | (targets >= vocabulary))]
    if len(wrong):
        raise ValueError(
            f"{_NAME}: targets has {int(wrong[0])}; ids are 0 to {vocabulary - 1}, or {IGNORED} for a token that is left "
            "out"
        )


def _can_look(tensor: Tensor) -> bool:
    # elsewhere a look would wait for the device; a wrong number gives wrong numbers there
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _same_shape(name: str, tensor: Shaped[Tensor, "..."], shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{_NAME}: {name} is {tuple(tensor.shape)}; it is {tuple(shape)} here")


def _same_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(
            f"{_NAME}: {name} is on {tensor.device} and hidden on {device}; move one of them"
        )


def _refused(name: str, tensor: Tensor, allowed: str) -> ValueError:
    return ValueError(f"{_NAME}: {name} is {tensor.dtype}; it is {allowed}")
