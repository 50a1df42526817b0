"""What would make a run fit, in the order of what it costs: time, other machines, another method."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlvr.check.hardware import GIB
from rlvr.check.memory import LEARNING, Job, estimate

ADAPTER_RANK = 16
MOST_PROCESSES = 1024


@dataclass(frozen=True)
class Remedy:
    """Changes, and the job with them."""

    changes: tuple[str, ...]
    """What to set."""
    job: Job

    @property
    def gib(self) -> float:
        """In the fullest phase."""
        return estimate(self.job).peak / GIB

    @property
    def fits(self) -> bool:
        """Whether that is within what there is."""
        return estimate(self.job).fits

    def then(self, change: str, job: Job) -> "Remedy":
        """Return the same with one change more."""
        return Remedy((*self.changes, change), job)


def remedies(job: Job) -> list[Remedy]:
    """Return changes that need less; none where the job fits.

    The first changes nothing but time. Where it does not suffice, others follow, each with as much of that as it needs.
    """
    if estimate(job).fits:
        return []
    start = Remedy((), job)
    leaner = _leaner(start)
    if leaner.fits:
        return [leaner]
    others = [_leaner(item) for step in (_stages, _offload, _adapters) for item in step(start)]
    return [item for item in (leaner, *others, *_processes(start)) if item.changes]


def _leaner(remedy: Remedy) -> Remedy:
    """Return it with what changes nothing but time, as far as that is needed."""
    for step in (_smaller_batches, _checkpointing, _sleep, _fewer_together):
        remedy = step(remedy)
    return remedy


def _overflows(job: Job, *phases: str) -> bool:
    memory = estimate(job)
    return any(memory.totals[phase] > memory.available for phase in phases)


def _smaller_batches(remedy: Remedy) -> Remedy:
    plan = remedy.job.plan
    if plan.tokens_per_micro_batch is not None:
        size, least, key = remedy.job.tokens, remedy.job.length, "tokens_per_micro_batch"
    else:
        size, least, key = min(plan.micro_batch_size, plan.share), 1, "micro_batch_size"
    smaller = remedy
    while _overflows(smaller.job, *LEARNING) and size > least:
        size = max(size // 2, least)
        job = replace(remedy.job, plan=replace(plan, **{key: size}))
        smaller = remedy.then(f"training.{key}={size}", job)
    return smaller


def _checkpointing(remedy: Remedy) -> Remedy:
    job = remedy.job
    if job.checkpointing or not _overflows(job, *LEARNING):
        return remedy
    return remedy.then("training.gradient_checkpointing=true", replace(job, checkpointing=True))


def _sleep(remedy: Remedy) -> Remedy:
    job = remedy.job
    if job.vllm is None or job.vllm.sleeps or not job.vllm.share or not _overflows(job, *LEARNING):
        return remedy
    asleep = replace(job, vllm=replace(job.vllm, sleeps=True))
    return remedy.then("training.vllm_enable_sleep_mode=true", asleep)


def _fewer_together(remedy: Remedy) -> Remedy:
    size, fewer = remedy.job.sampled_together, remedy
    while remedy.job.vllm is None and _overflows(fewer.job, "rollout") and size > 1:
        size //= 2
        job = replace(remedy.job, together=size)
        fewer = remedy.then(f"rollout.batch_size={size}", job)
    return fewer


def _can_divide(job: Job) -> bool:
    return job.is_on_gpu and job.quantization is None


def _stages(remedy: Remedy) -> Iterator[Remedy]:
    job = remedy.job
    if job.layout.processes == 1 or not _can_divide(job):
        return
    for stage in range(job.layout.stage + 1, 4):
        layout = replace(job.layout, stage=stage)
        yield remedy.then(f"--accelerate-config zero{stage}", replace(job, layout=layout))


def _offload(remedy: Remedy) -> Iterator[Remedy]:
    job = remedy.job
    if job.layout.offload_optimizer or not _can_divide(job):
        return
    stage = max(job.layout.stage, 2 if job.layout.processes == 1 else 3)
    layout = replace(job.layout, stage=stage, offload_optimizer=True)
    host = job.trained * 16 / job.layout.processes / GIB
    text = (
        f"zero{stage} with offload_optimizer_device: cpu, {host:.0f} GiB of the host for each GPU"
    )
    yield remedy.then(text, replace(job, layout=layout))


def _adapters(remedy: Remedy) -> Iterator[Remedy]:
    """Yield an adapter of low rank, and one on weights of 4 bits, which ZeRO-3 does not divide."""
    model = remedy.job.model
    if not model.linear_width:
        return
    if model.adapter is None:
        adapted = replace(model, adapter=ADAPTER_RANK * model.linear_width)
        job = replace(remedy.job, model=adapted, has_reference=False)
        remedy = remedy.then(f"model.lora.rank={ADAPTER_RANK}", job)
        yield remedy
    job = remedy.job
    if job.quantization is None and job.vllm is None and job.is_on_gpu:
        whole = replace(job.layout, stage=0, offload_optimizer=False, offload_weights=False)
        rounded = replace(job, quantization="4bit", layout=whole)
        without = " without DeepSpeed" if job.layout.is_deepspeed else ""
        yield remedy.then(f"model.quantization=4bit{without}", rounded)


def _processes(remedy: Remedy) -> Iterator[Remedy]:
    """Yield the least number of GPUs, doubled again and again, on which ZeRO-3 fits."""
    job = remedy.job
    count = job.layout.processes
    while _can_divide(job) and count < MOST_PROCESSES:
        count *= 2
        if job.plan.completions_per_update % count:
            return
        layout = replace(job.layout, processes=count, stage=3)
        plan = replace(job.plan, processes=count)
        more = _leaner(remedy.then(f"{count} GPUs, zero3", replace(job, layout=layout, plan=plan)))
        if more.fits:
            yield more
            return
