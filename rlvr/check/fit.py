"""`rlvr check`: does a run fit on its GPUs, what would make it fit, and about how long does it take?"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.check.hardware import GIB, Gpu, Layout, find_gpu
from rlvr.check.memory import PHASES, Job, Memory, Vllm, estimate, vllm_needs
from rlvr.check.plan import BatchPlan
from rlvr.check.remedy import remedies
from rlvr.check.shape import SIZES, ModelShape, load_config, shape_of, usual_config
from rlvr.check.timing import Time, estimate_time, with_vllm
from rlvr.console import console_for_tables, plain_table, plural, say
from rlvr.entropy.control import Chain
from rlvr.recipe import Recipe
from rlvr.recipe_error import Problem, raise_problems

logger = logging.getLogger(__name__)

TRL = {
    "gradient_checkpointing": True,
    "optim": "adamw_torch_fused",
    "ds3_gather_for_generation": True,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_enable_sleep_mode": False,
    "vllm_tensor_parallel_size": 1,
}
"""Defaults of TRL's fields that decide memory; a test compares them with TRL."""
USUAL_PROMPT = 1024
"""Tokens of a prompt at most, where the recipe does not say."""
TIGHT = 0.9
"""Share of the memory above which a run may not fit: the estimate is no better than that."""
SHOWN = GIB / 20
"""Bytes below which a part has no line of its own."""
FASTER = 0.8
"""vLLM is recommended where it takes less than this share of the time."""


@dataclass(frozen=True)
class Machine:
    """Where a run is to be."""

    layout: Layout
    gpu: str | None = None
    """A key of `GPUS`; None: the one that is there, else a usual one."""
    model_size: str | None = None
    """A key of `SIZES`, for a model whose configuration cannot be had."""
    mean_length: int | None = None
    """Tokens of a completion, on average; None: as long as they may be."""


def report(recipe: Recipe, plan: BatchPlan, machine: Machine, updates: int | None) -> bool:
    """Print memory, what would make it fit, and time; return False if a GPU that is there or was named is too small.

    Args:
        recipe: Has passed its checks.
        plan: For the machine's processes.
        machine: Where the run is to be.
        updates: Of the whole run; None: not known.

    Raises:
        RecipeError: If completions are longer than the model's context, or quantized weights are to be divided.
        ValueError: If a GPU or a size is unknown.
    """
    if recipe.model.quantization is not None and machine.layout.stage == 3:
        text = f"is {recipe.model.quantization}, whose weights ZeRO-3 does not divide; use zero2, or null."
        raise_problems([Problem(("model", "quantization"), text)], recipe.name)
    gpu = find_gpu(machine.gpu, recipe.training.device, plan.processes)
    shape = _shape(recipe, machine)
    if shape is None:
        return True
    job = job_of(recipe, plan, shape, machine.layout, gpu)
    memory = estimate(job)
    _print_memory(recipe, job, memory)
    fits = _judge(job, memory)
    _print_time(recipe, job, machine.mean_length, updates)
    return fits or not gpu.is_chosen


def job_of(recipe: Recipe, plan: BatchPlan, model: ModelShape, layout: Layout, gpu: Gpu) -> Job:
    """Return what one process of a recipe does.

    Raises:
        RecipeError: If completions are longer than the model's context.
    """
    from rlvr.controls import build_chain

    training = TRL | dict(recipe.training.model_extra or {})
    chain = build_chain(recipe)
    wants_reference = recipe.algorithm.kl_coef != 0 or "ref_logprobs" in chain.needs
    kernel = recipe.kernel
    return Job(
        model=model,
        gpu=gpu,
        layout=replace(layout, processes=plan.processes),
        plan=plan,
        prompt=_prompt(recipe, model),
        completion=recipe.rollout.max_completion_length,
        number=_number(recipe, gpu),
        checkpointing=bool(training["gradient_checkpointing"]),
        has_reference=wants_reference and model.adapter is None,
        quantization=recipe.model.quantization,
        optimizer=str(training["optim"]),
        attention=_attention(recipe.model.attention),
        kernel=kernel.impl,
        cache=0
        if kernel.tolerance is not None
        else (None if kernel.cache_gib is None else int(kernel.cache_gib * GIB)),
        together=recipe.rollout.batch_size,
        vllm=_vllm(training) if recipe.rollout.engine == "vllm" else None,
        gathers_to_generate=bool(training["ds3_gather_for_generation"]),
    )


def looks(recipe: Recipe, plan: BatchPlan, chain: Chain) -> float:
    """Return the forward passes of each completion besides training."""
    wants_old = (
        plan.updates_per_rollout > 1
        or recipe.rollout.engine == "vllm"
        or bool(chain.needs & {"old_logprobs", "old_entropies"})
        or bool(chain.statistics | chain.old_statistics)
    )
    wants_reference = recipe.algorithm.kl_coef != 0 or "ref_logprobs" in chain.needs
    # the first update sees the policy that sampled
    moved = chain.measures_current_policy * (plan.passes - 1 / plan.updates_per_pass)
    return wants_old + wants_reference + moved


def _number(recipe: Recipe, gpu: Gpu) -> int:
    if recipe.model.dtype == "auto":
        return 4 if gpu.name == "cpu" else 2
    return 4 if recipe.model.dtype == "float32" else 2


def _attention(name: str | None) -> Any:
    if name == "eager":
        return "eager"
    return "flash" if name and name.startswith("flash") else "sdpa"


def _vllm(training: dict[str, Any]) -> Vllm:
    is_server = training["vllm_mode"] == "server"
    return Vllm(
        share=0.0 if is_server else float(training["vllm_gpu_memory_utilization"]),
        sleeps=bool(training["vllm_enable_sleep_mode"]),
        tensor_parallel=int(training["vllm_tensor_parallel_size"]),
    )


def _prompt(recipe: Recipe, model: ModelShape) -> int:
    asked, completion = recipe.data.max_prompt_length, recipe.rollout.max_completion_length
    if model.context is None:
        return asked or USUAL_PROMPT
    if completion >= model.context:
        text = (
            f"is {completion}, but the context of {recipe.model.path} is {model.context} tokens, prompt included; lower "
            "it."
        )
        raise_problems([Problem(("rollout", "max_completion_length"), text)], recipe.name)
    return min(asked or USUAL_PROMPT, model.context - completion)


def _shape(recipe: Recipe, machine: Machine) -> ModelShape | None:
    """Return the model's sizes; None, said in one line, where they cannot be had."""
    model = recipe.model
    adapter = None
    if model.lora is not None:
        from rlvr.assemble import lora_config

        adapter = lora_config(recipe)
    if machine.model_size is not None:
        name = f"the shape of Qwen2.5-{machine.model_size.upper()}"
        shape = shape_of(usual_config(machine.model_size), name, adapter)
        # its context is not that of the recipe's model
        return replace(shape, context=None)
    try:
        config = load_config(model)
        return shape_of(
            config, Path(model.path).name, adapter, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
    say(
        f"memory    not estimated: no configuration of {model.path} ({reason[:120]}); give one of its size, --model-size "
        f"{'|'.join(SIZES)}, or model.path=FOLDER with its config.json"
    )
    return None


def _print_memory(recipe: Recipe, job: Job, memory: Memory) -> None:
    gpu, model = job.gpu, job.model
    known = "" if gpu.is_chosen else ", assumed; --gpu says otherwise"
    place = f"each of {job.layout.processes} x {gpu.name}" if job.layout.processes > 1 else gpu.name
    say(
        f"memory    about {memory.peak / GIB:.1f} GiB of the {gpu.gib:.1f} GiB of {place} ({job.layout.name}{known})"
    )
    trained = (
        "" if model.adapter is None else f", {model.adapter / 1e6:.1f} million of them trained"
    )
    at_most = (
        "" if recipe.data.max_prompt_length else "assumed; data.max_prompt_length says otherwise; "
    )
    say(
        f"          {model.name}: {_count(model.parameters)} parameters{trained}; prompts of up to {job.prompt} tokens "
        f"({at_most}completions of up to {job.completion})"
    )
    table = plain_table("          GiB", *PHASES)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, part in _rows(memory).items():
        table.add_row(f"          {name}", *(_gib(part.get(phase, 0.0)) for phase in PHASES))
    console_for_tables(100).print(table)


def _judge(job: Job, memory: Memory) -> bool:
    """Say whether it fits, and what to do if not; return whether it does."""
    vllm, gib = job.vllm, job.gpu.gib
    if vllm is not None and vllm.share and vllm_needs(job) > vllm.share * gib * GIB:
        needed = vllm_needs(job) / GIB
        logger.warning(
            "vLLM needs %.1f GiB for weights and one completion, more than %.2f of the GPU; set "
            "training.vllm_gpu_memory_utilization=%.2f or more, or training.vllm_tensor_parallel_size",
            needed,
            vllm.share,
            needed / gib + 0.05,
        )
        return False
    if memory.fits:
        if memory.peak > TIGHT * memory.available:
            logger.warning(
                "that is tight: the estimate may be off by a tenth; try a few updates first"
            )
        return True
    found = remedies(job)
    logger.warning(
        "IT DOES NOT FIT: %.1f GiB are needed, there are %.1f%s",
        memory.peak / GIB,
        gib,
        ". What needs less:" if found else "",
    )
    table = plain_table("          set", "GiB", "")
    table.columns[1].justify = "right"
    for item in found:
        changes = ", ".join(item.changes)
        table.add_row(f"          {changes}", f"{item.gib:.1f}", "fits" if item.fits else "")
    if found:
        console_for_tables(120).print(table)
    return False


def _print_time(recipe: Recipe, job: Job, mean_length: int | None, updates: int | None) -> None:
    from rlvr.controls import build_chain

    mean = min(mean_length or job.completion, job.completion)
    passes = looks(recipe, job.plan, build_chain(recipe))
    time = estimate_time(job, mean, passes)
    if time is None:
        why = "float32 products" if job.gpu.teraflops else job.gpu.name
        say(f"time      not estimated: the speed of {why} is not known")
        return
    lengths = f"completions of {mean} tokens" + (
        " (their limit; --mean-length N)" if mean_length is None else ""
    )
    whole = ""
    if updates is not None:
        whole = f", {_seconds(time.an_update * updates)} for {plural(updates, 'update')}"
    say(f"time      about {_seconds(time.an_update)} an update{whole}; {lengths}")
    say(
        f"          a rollout and its {plural(time.updates, 'update')}: sampling {_seconds(time.rollout)}, log-probs "
        f"{_seconds(time.looking)}, training {_seconds(time.training)}, between GPUs {_seconds(time.sync)}; without "
        "verdicts, evaluations, checkpoints"
    )
    if recipe.rollout.dynamic_sampling is not None:
        most = 1 + recipe.rollout.dynamic_sampling.max_refills
        say(f"          refills make sampling up to {most} times as long")
    _compare(job, time, mean, passes)


def _compare(job: Job, time: Time, mean: int, passes: float) -> None:
    """Say whether vLLM would be faster."""
    if job.vllm is not None:
        return
    other_job = with_vllm(job)
    other = estimate_time(other_job, mean, passes)
    if other is not None and other.total < FASTER * time.total:
        fits = "" if estimate(other_job).fits else ", but would not fit beside the rest"
        say(
            f"          rollout.engine=vllm: about {_seconds(other.an_update)} an update, sampling {_seconds(other.rollout)}"
            f"{fits}"
        )


def _rows(memory: Memory) -> dict[str, Mapping[str, float]]:
    """Return what is shown: large parts, the small ones together, the sum."""
    large = {name: part for name, part in memory.parts.items() if max(part.values()) >= SHOWN}
    shown = {phase: sum(part.get(phase, 0.0) for part in large.values()) for phase in memory.totals}
    rest = {phase: total - shown[phase] for phase, total in memory.totals.items()}
    others = {"others": rest} if len(large) < len(memory.parts) else {}
    return large | others | {"in all": memory.totals}


def _gib(number: float) -> str:
    return "" if not number else f"{number / GIB:.1f}" if number >= SHOWN else "<0.1"


def _count(parameters: int) -> str:
    """Return a number of parameters in words.

    Example:
        >>> _count(7_615_616_512), _count(28_704)
        ('7.62 billion', '0.03 million')
    """
    if parameters >= 1e9:
        return f"{parameters / 1e9:.2f} billion"
    return f"{parameters / 1e6:.2f} million"


def _seconds(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> _seconds(0.25), _seconds(42.0), _seconds(600), _seconds(36_000), _seconds(864_000)
        ('0.2 s', '42 s', '10 min', '10.0 h', '10.0 days')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"
