"""About how long a rollout and its updates take on a GPU, from its data sheet.

Products are bound by arithmetic, sampling by memory: for each token all weights and the KV cache are read once. The
shares of a data sheet's numbers that are reached, and what a step of generation costs besides, are assumed, not
measured. Not in it: verdicts (as long as a verifier takes), evaluations, checkpoints, loading, waiting for other machines.
"""

from dataclasses import dataclass, replace

from rlvr.check.hardware import GIB
from rlvr.check.memory import QUANTIZED, Job, Vllm, kv_bytes

ARITHMETIC, STREAM = 0.4, 0.6
"""Shares of a GPU's products and of its memory's bandwidth that are reached."""
LAYER_SECONDS = 0.6e-3
"""What a layer's kernels take to start, in each step of generation by transformers."""
STEP_SECONDS = 4e-3
"""What vLLM does between two steps."""
SERVER_SHARE = 0.9
"""Of its GPU that a vLLM server takes: its own default."""
COLOCATED_SHARE = 0.3
"""Of the GPU that a colocated vLLM takes: TRL's default."""


@dataclass(frozen=True)
class Time:
    """Seconds for one rollout and all updates on it."""

    rollout: float
    looking: float
    """Log-probs before and between the updates: of the policy that sampled, the reference, the policy that has moved."""
    training: float
    """Forward, backward, optimizer."""
    sync: float
    """Gradients and weights between GPUs, weights to the sampler."""
    updates: int
    """On the rollout."""

    @property
    def total(self) -> float:
        """Of the rollout and its updates."""
        return self.rollout + self.looking + self.training + self.sync

    @property
    def an_update(self) -> float:
        """The share of one update."""
        return self.total / self.updates


def estimate_time(job: Job, mean: int, looks: float = 1.0) -> Time | None:
    """Return about how long a rollout and its updates take; None where the hardware's speed is not known.

    Args:
        job: Of one process; all have the same.
        mean: Tokens of a completion, on average.
        looks: Forward passes of each completion besides training.
    """
    # float32 products have another speed, which the table lacks
    if job.gpu.teraflops is None or job.number > 2:
        return None
    plan = job.plan
    rows = plan.completions_per_process
    tokens = rows * (job.prompt + mean)
    forward = tokens * _forward(job, job.prompt + mean) / _flops(job)
    times = 3 if job.model.adapter is None else 2  # frozen weights have no gradient
    training = plan.passes * forward * (times + job.checkpointing)
    training += plan.updates_per_rollout * _optimizer_seconds(job)
    return Time(
        rollout=_sampling(job, mean),
        looking=looks * forward,
        training=training,
        sync=_sync(job),
        updates=plan.updates_per_rollout,
    )


def with_vllm(job: Job) -> Job:
    """Return the same job, sampled by a vLLM beside the trainer."""
    return replace(job, vllm=Vllm(COLOCATED_SHARE))


def _flops(job: Job) -> float:
    assert job.gpu.teraflops is not None  # estimate_time has looked
    return job.gpu.teraflops * 1e12 * ARITHMETIC


def _bandwidth(job: Job) -> float:
    assert job.gpu.bandwidth is not None  # it stands in the table beside the other
    return job.gpu.bandwidth * 1e9 * STREAM


def _forward(job: Job, length: float) -> float:
    """Return the operations of a forward pass for each token of a row of so many."""
    return 2 * job.model.active + 4 * job.model.queries * job.model.layers * length


def _optimizer_seconds(job: Job) -> float:
    """Return how long a step takes: weights, gradients and two moments are read and written in float32."""
    share = job.trained / (job.layout.processes if job.layout.is_deepspeed else 1)
    return 28 * share / _bandwidth(job)


def _read_weights(job: Job, together: float) -> float:
    """Return the bytes that a step of generation reads of the weights, for so many tokens at once."""
    model = job.model
    missed = (1 - model.experts_per_token / model.expert_count) ** together
    read = model.parameters - model.experts * missed
    if job.vllm is not None:
        return read * job.number
    if job.quantization:
        return read * (QUANTIZED[job.quantization] + 2 * job.number)
    # mixed: read, written in the computing dtype, read again, in every step
    return read * (4 + 2 * job.number if job.is_mixed else job.number)


def _sampling(job: Job, mean: int) -> float:
    return _by_transformers(job) if job.vllm is None else _by_vllm(job, job.vllm, mean)


def _by_transformers(job: Job) -> float:
    """Return the seconds of a process's completions: a batch goes on until its longest has ended."""
    together, steps = job.sampled_together, job.completion
    batches = -(-job.plan.completions_per_process // together)
    # the cache is copied to grow; beside a mask it is repeated for every head
    moved = 3 if job.attention == "flash" else 2 + 2 * job.model.queries / job.model.keys
    tokens = together * (steps * job.prompt + steps**2 / 2)
    weights = max(
        _read_weights(job, together) / _bandwidth(job),
        together * 2 * job.model.active / _flops(job),
    )
    decoding = steps * (weights + job.model.layers * LAYER_SECONDS)
    decoding += tokens * kv_bytes(job) * moved / _bandwidth(job)
    prefill = together * job.prompt * _forward(job, job.prompt) / _flops(job)
    return batches * (prefill + decoding)


def _by_vllm(job: Job, vllm: Vllm, mean: int) -> float:
    """Return the seconds of all completions of the GPUs that share a copy, as many at once as its cache holds."""
    is_server = vllm.share == 0
    gpus = vllm.tensor_parallel
    completions = job.plan.completions_per_process * (
        job.layout.processes if is_server else vllm.tensor_parallel
    )
    room = gpus * (vllm.share or SERVER_SHARE) * job.gpu.gib * GIB
    room -= job.model.parameters * job.number
    length = job.prompt + mean
    together = max(1.0, min(completions, room / (length * kv_bytes(job))))
    step = max(
        _read_weights(job, together) / _bandwidth(job),
        together * 2 * job.model.active / _flops(job),
    )
    step += together * (job.prompt + mean / 2) * kv_bytes(job) / _bandwidth(job)
    steps = completions * mean / together
    # the completions of a group share the cache of their prompt
    prompts = completions / job.plan.group_size
    prefill = prompts * job.prompt * _forward(job, job.prompt) / _flops(job)
    return (prefill + steps * step) / gpus + steps * STEP_SECONDS


def _sync(job: Job) -> float:
    """Return the seconds of all that GPUs tell each other, on the links of one machine."""
    plan, layout, model = job.plan, job.layout, job.model
    if job.gpu.link is None:
        return 0.0
    share = (layout.processes - 1) / layout.processes
    weights, gradients = model.parameters * job.number, job.trained * job.number
    micro_batches = -(-plan.share * job.length // job.tokens)
    if not layout.is_deepspeed:
        moved = 2.0 * job.trained * 4
    elif layout.stage == 1:
        moved = 2.0 * gradients
    elif layout.stage == 2:  # gradients are reduced after each micro-batch
        moved = (micro_batches + 1.0) * gradients
    else:  # weights are gathered for each, forward and backward
        moved = micro_batches * (2.0 * weights + gradients)
    gathered = weights if layout.stage == 3 else 0
    to_sampler = weights if job.vllm is not None else 0
    once = share * gathered + to_sampler
    return (plan.updates_per_rollout * share * moved + once) / (job.gpu.link * 1e9)
