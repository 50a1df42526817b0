"""How much of a GPU's memory a run takes at its fullest, part by part and phase by phase.

    rollout     completions are sampled
    forward     of a micro-batch, log-probs included
    head        its backward pass through the head
    layers      its backward pass through the layers
    step        of the optimizer

Without DeepSpeed trained weights are float32, and autocast makes copies in the computing dtype. With it weights are in
the computing dtype, and the optimizer has them in float32. docs/check.md has the formulas, and how far they are off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlvr.check.hardware import GIB, Gpu, Layout
from rlvr.check.plan import BatchPlan
from rlvr.check.shape import ModelShape
from rlvr.kernels.linear import CPU_CACHE, GPU_CACHE, GPU_CACHE_SHARE

PHASES = ("rollout", "forward", "head", "layers", "step")
LEARNING = ("forward", "head", "layers", "step")

RUNTIME, COLLECTIVES = GIB, GIB // 2
"""CUDA's context with the libraries' workspaces, and NCCL's buffers: assumed, not measured."""
HEAD_PIECE = 2**29
"""Bytes of the gradient by a piece of the logits, at most: see kernels/launch.py."""
COLUMNS = 256
"""Of a tile of logits; each leaves three numbers a row."""
BUCKET, LIVE = 500_000_000, 1_000_000_000
"""DeepSpeed's defaults: numbers that are reduced together, and that ZeRO-3 keeps gathered."""
QUANTIZED = {"8bit": 1.0, "4bit": 0.516}
"""Bytes of a matrix's number; of 4 bits, with doubly quantized scales of each 64."""
OPTIMIZERS = {
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "sgd": 0.0,
}
"""Bytes of states for each trained number; others count as AdamW."""


@dataclass(frozen=True)
class Vllm:
    """How vLLM samples."""

    share: float
    """Of the GPU's memory that it takes; 0: it is a server on other GPUs."""
    sleeps: bool = False
    """Whether it gives its memory back while the policy learns."""
    tensor_parallel: int = 1
    """GPUs that share a copy of the model."""


@dataclass(frozen=True)
class Job:
    """What one process does, as far as memory and time depend on it."""

    model: ModelShape
    gpu: Gpu
    layout: Layout
    plan: BatchPlan
    prompt: int
    """Tokens of a prompt, at most."""
    completion: int
    """Tokens of a completion, at most."""
    number: int = 2
    """Bytes of a number in the computing dtype."""
    checkpointing: bool = True
    """Whether layers are computed again in backward passes."""
    has_reference: bool = False
    """Whether the initial policy is kept too."""
    quantization: str | None = None
    """Of the frozen weights: 4bit or 8bit."""
    optimizer: str = "adamw_torch_fused"
    attention: Literal["sdpa", "eager", "flash"] = "sdpa"
    kernel: str = "auto"
    """`kernel.impl`."""
    cache: int | None = None
    """Bytes of logits kept for the backward pass; None: what is usual."""
    together: int = 128
    """Completions that transformers generates together."""
    vllm: Vllm | None = None
    """None: transformers samples."""
    gathers_to_generate: bool = True
    """Whether ZeRO-3 gathers all weights while transformers samples."""

    @property
    def length(self) -> int:
        """Tokens of a row, at most."""
        return self.prompt + self.completion

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch, padding counted, at most."""
        if self.plan.tokens_per_micro_batch is not None:
            whole = self.plan.share * self.length
            return min(whole, max(self.plan.tokens_per_micro_batch, self.length))
        return min(self.plan.micro_batch_size, self.plan.share) * self.length

    @property
    def sampled_together(self) -> int:
        """Completions that one process samples at the same time."""
        return min(self.together, self.plan.completions_per_process)

    @property
    def trained(self) -> int:
        """Numbers that are trained."""
        return self.model.parameters if self.model.adapter is None else self.model.adapter

    @property
    def is_mixed(self) -> bool:
        """Whether float32 weights are multiplied in a lower precision, by autocast."""
        is_whole = self.model.adapter is None
        return is_whole and not self.layout.is_deepspeed and self.number < 4

    @property
    def weight(self) -> int:
        """Bytes of a number of the model; an adapter's are another matter."""
        return 4 if self.is_mixed else self.number

    @property
    def is_on_gpu(self) -> bool:
        """Whether there is a GPU at all."""
        return self.gpu.name != "cpu"


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    parts: Mapping[str, Mapping[str, float]]
    """What takes it -> phase -> bytes."""
    available: float

    @property
    def totals(self) -> dict[str, float]:
        """Phase -> bytes."""
        return {
            phase: sum(part.get(phase, 0.0) for part in self.parts.values()) for phase in PHASES
        }

    @property
    def peak(self) -> float:
        """In the fullest phase."""
        return max(self.totals.values())

    @property
    def fits(self) -> bool:
        """Whether the fullest phase is within what there is."""
        return self.peak <= self.available


def estimate(job: Job) -> Memory:
    """Return what a job takes of its GPU, in each phase.

    The logits that are kept for the backward pass take a share of what is left by the rest, so they come last.
    """
    parts = {
        "weights": _weights(job),
        "reference model": _reference(job),
        "gradients": _gradients(job),
        "optimizer": _optimizer(job),
        "DeepSpeed's buffers": _buffers(job),
        "weights in low precision": _casts(job),
        "activations": _activations(job),
        "KV cache": _kv_cache(job),
        "vLLM": _vllm(job),
        "log-probs": _head(job),
        "tokens of the rollout": dict.fromkeys(PHASES, _rollout_tokens(job)),
        "CUDA, NCCL" if job.is_on_gpu else "libraries": dict.fromkeys(PHASES, _runtime(job)),
    }
    available = job.gpu.gib * GIB
    rest = Memory(parts, available)
    parts["kept logits"] = dict.fromkeys(
        ("forward", "head"), kept_logits(job, available - rest.totals["forward"])
    )
    used = {name: part for name, part in parts.items() if any(part.values())}
    return Memory(used, available)


def state_bytes(job: Job) -> tuple[float, float, float]:
    """Return the bytes of weights, gradients and optimizer on one process, without what passes."""
    return _weights(job)["step"], _gradients(job)["step"], _optimizer(job)["forward"]


def _divided(job: Job, stage: int) -> int:
    """Return among how many processes something is divided from this stage of ZeRO on."""
    return job.layout.processes if job.layout.stage >= stage else 1


def _weights(job: Job) -> dict[str, float]:
    if job.layout.offload_weights:
        return {}
    model = job.model
    rest = model.parameters - model.matrices
    matrix = QUANTIZED[job.quantization] if job.quantization else job.weight
    total = model.matrices * matrix + rest * job.weight
    if model.adapter is not None:
        total += model.adapter * (job.number if job.layout.is_deepspeed else 4)
    return dict.fromkeys(PHASES, total / _divided(job, 3))


def _reference(job: Job) -> dict[str, float]:
    if not job.has_reference:
        return {}
    number = job.number if job.layout.is_deepspeed else 4
    return dict.fromkeys(PHASES, job.model.parameters * number / _divided(job, 3))


def _gradients(job: Job) -> dict[str, float]:
    if job.layout.offload_optimizer:
        return {}
    number = job.number if job.layout.is_deepspeed else 4
    own = job.trained * number / _divided(job, 2)
    parts = dict.fromkeys(LEARNING, own)
    if job.layout.stage == 3:
        parts["rollout"] = own
    if not job.layout.is_deepspeed and job.layout.processes > 1:
        # DistributedDataParallel keeps buckets as large as the gradients
        parts = {phase: parts.get(phase, 0.0) + own for phase in PHASES}
    return parts


def _optimizer(job: Job) -> dict[str, float]:
    if job.layout.offload_optimizer:
        return {}
    states = OPTIMIZERS.get(job.optimizer, OPTIMIZERS["adamw_torch"])
    if not job.layout.is_deepspeed:
        return dict.fromkeys(PHASES, job.trained * states)
    share = job.trained / _divided(job, 1)
    parts = dict.fromkeys(PHASES, share * (states + 4))
    parts["step"] += share * 4  # gradients in float32
    return parts


def _buffers(job: Job) -> dict[str, float]:
    if not job.layout.is_deepspeed:
        return {}
    reduced = min(BUCKET, job.trained) * job.number
    if job.layout.stage < 3:
        return {"head": reduced, "layers": reduced, "step": reduced}
    gathered = min(LIVE, job.model.parameters) * job.number
    all_weights = job.model.parameters * job.number
    generates = job.vllm is None and job.gathers_to_generate
    return {
        "rollout": all_weights if generates else gathered,
        "forward": gathered,
        "head": gathered + reduced,
        "layers": gathered + reduced,
        "step": reduced,
    }


def _casts(job: Job) -> dict[str, float]:
    if not job.is_mixed:
        return {}
    layers, head = job.model.matrices * job.number, job.model.head * job.number
    again = layers / job.model.layers if job.checkpointing else layers
    return {
        "rollout": layers + head if job.vllm is None else 0.0,
        "forward": layers + head,
        "head": head if job.checkpointing else layers + head,
        "layers": again,
    }


def saved_in_layer(job: Job) -> float:
    """Return the bytes for each token that one layer keeps for its backward pass, as transformers computes it."""
    model, number = job.model, job.number
    # under autocast each product with float32 matrices, an adapter's too, casts its input anew
    is_adapted = model.adapter is not None and not job.layout.is_deepspeed
    copies = 5 if job.is_mixed or is_adapted else 2
    norms = model.hidden * (8 + 2 * job.weight + copies * number) + 8
    if model.normalizes_heads:
        norms += (model.queries + model.keys) * (4 + number) + 4 * (model.heads + model.kv_heads)
    feed_forward = 4 * model.intermediate * number
    if model.experts:
        feed_forward += 2 * model.experts_per_token * model.hidden * number
    return norms + _saved_in_attention(job) + feed_forward


def _saved_in_attention(job: Job) -> float:
    model, number = job.model, job.number
    if job.attention == "flash":
        return (2 * model.queries + 2 * model.keys) * number + 4 * model.heads
    # beside a mask keys and values are repeated for every head
    shared = 4 * model.queries * number
    if job.attention == "eager":
        # softmax in float32, and cast
        return shared + model.heads * job.length * (4 if number == 4 else 4 + number)
    return shared + 4 * model.heads + job.length * number


def _activations(job: Job) -> dict[str, float]:
    model, number = job.model, job.number
    around = model.hidden * (4 + 2 * job.weight) + job.length
    own = saved_in_layer(job)
    kept = model.layers * (model.hidden * job.weight if job.checkpointing else own) + around
    passing = 3.0 * model.intermediate * number
    if job.attention == "eager":  # scores, masked, their softmax
        passing = max(passing, 10.0 * model.heads * job.length)
    again = own if job.checkpointing else 0.0
    gradients = 2 * model.intermediate * number + 4 * model.hidden
    parts = {
        "forward": (kept + passing) * job.tokens,
        "head": kept * job.tokens,
        "layers": (kept + again + gradients) * job.tokens,
    }
    if job.vllm is None:
        started = job.sampled_together * job.prompt
        parts["rollout"] = started * (passing + model.hidden * (8 + 2 * job.weight))
    return parts


def kv_bytes(job: Job) -> int:
    """Return the bytes of the KV cache for each token, all layers."""
    # mixed: rotated keys come out in float32, and transformers keeps values as it keeps keys
    number = 4 if job.is_mixed and job.vllm is None else job.number
    return job.model.layers * job.model.keys * 2 * number


def _kv_cache(job: Job) -> dict[str, float]:
    if job.vllm is not None:
        return {}
    tokens = job.sampled_together * job.length
    # a layer's cache is copied to grow, and repeated for every head
    passing = kv_bytes(job) / job.model.layers + 2 * job.model.queries * job.number
    return {"rollout": tokens * (kv_bytes(job) + passing)}


def _vllm(job: Job) -> dict[str, float]:
    if job.vllm is None:
        return {}
    taken = job.vllm.share * job.gpu.gib * GIB
    return dict.fromkeys(("rollout",) if job.vllm.sleeps else PHASES, taken)


def vllm_needs(job: Job) -> float:
    """Return the least bytes that vLLM needs on a GPU: its weights, and the KV cache of one completion."""
    assert job.vllm is not None  # of a job that samples with it
    own = job.model.parameters * job.number + job.length * kv_bytes(job)
    return own / job.vllm.tensor_parallel


def _head(job: Job) -> dict[str, float]:
    model, number = job.model, job.number
    rows = job.tokens * job.completion / job.length
    logits = rows * model.vocabulary
    # a token of each completion is drawn from logits in float32 through float64 sums: see rlvr/rollout/draws.py
    sampling = 0.0 if job.vllm is not None else 32.0 * job.sampled_together * model.vocabulary
    if job.kernel == "naive":
        return {"rollout": sampling, "forward": 8 * logits, "head": 12 * logits}
    partials = 12 * logits / COLUMNS
    piece = min(HEAD_PIECE, logits * number) if job.is_on_gpu else 0.0
    own = model.head * job.weight if model.adapter is None else 0.0
    return {
        "rollout": sampling,
        "forward": partials,
        "head": piece + own + rows * model.hidden * 4,
    }


def kept_logits(job: Job, free: float) -> float:
    """Return the bytes of logits that are kept for the backward pass where so much is free."""
    if job.kernel == "naive":
        return 0.0
    usual = (
        min(GPU_CACHE, free * GPU_CACHE_SHARE) if job.is_on_gpu else CPU_CACHE * job.model.hidden
    )
    most = usual if job.cache is None else job.cache
    number = job.number if job.is_on_gpu else 4
    logits = job.tokens * job.completion / job.length * job.model.vocabulary * number
    return max(0.0, min(most, logits))


def _rollout_tokens(job: Job) -> float:
    """Return the bytes of a generation, which every process has whole: ids, masks, advantages, old log-probs and entropies."""
    known = 8 + 1
    a_completion_token = known + 1 + 4 * (4 if job.has_reference else 3)
    row = job.prompt * known + job.completion * a_completion_token
    return float(job.plan.completions_per_rollout * row)


def _runtime(job: Job) -> float:
    return float(RUNTIME + (COLLECTIVES if job.layout.processes > 1 and job.is_on_gpu else 0))
