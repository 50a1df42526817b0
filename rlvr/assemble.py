"""A recipe's words -> the objects that train: loss, TRL's arguments, trainer."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr import advantage, aggregate, divergence, surrogate
from rlvr.check.plan import BatchPlan
from rlvr.checkpoint import CHECKPOINTS
from rlvr.controls import build_chain
from rlvr.inputs import Inputs
from rlvr.loss import Objective
from rlvr.reach import cache_if_unreachable
from rlvr.recipe import Recipe
from rlvr.recipe_error import refuse

if TYPE_CHECKING:
    from trl import GRPOConfig

    from rlvr.trainer import Trainer

TRL = "1.16."


def build_objective(recipe: Recipe) -> Objective:
    """Return the loss that a recipe describes."""
    algorithm, rollout = recipe.algorithm, recipe.rollout
    options = dict(algorithm.aggregate.options)
    if algorithm.aggregate.name == "sequence_sum":
        options.setdefault("length", rollout.max_completion_length)
    return Objective(
        surrogate=partial(
            getattr(surrogate, algorithm.surrogate.name), **algorithm.surrogate.options
        ),
        aggregate=partial(getattr(aggregate, algorithm.aggregate.name), **options),
        chain=build_chain(recipe),
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip,
        kl_coef=algorithm.kl_coef,
        kl_estimator=getattr(divergence, algorithm.kl_estimator),
        kl_correction=algorithm.kl_correction,
        correction_max=rollout.correction_max if rollout.engine == "vllm" else None,
    )


def build_trainer(recipe: Recipe, plan: BatchPlan, inputs: Inputs, updates: int) -> "Trainer":
    """Return the trainer of a recipe; loads the model.

    Raises:
        ValueError: If there are no weights.
    """
    _check_trl()
    from rlvr.check.arguments import check_arguments
    from rlvr.check.skeleton import check_skeleton
    from rlvr.monitor.trackers import trackers
    from rlvr.trainer import Trainer

    objective = build_objective(recipe)
    arguments = check_arguments(recipe, plan, updates)
    check_skeleton(recipe)
    estimator = recipe.algorithm.advantage
    try:
        with cache_if_unreachable(recipe.model.path):
            return Trainer(
                recipe.model.path,
                inputs.tokenizer,
                inputs.rows,
                scorer=inputs.scorer,
                advantage=partial(getattr(advantage, estimator.name), **estimator.options),
                objective=objective,
                plan=plan,
                arguments=arguments,
                folder=recipe.output,
                mask_truncated=recipe.algorithm.mask_truncated,
                generate_together=recipe.rollout.batch_size,
                dynamic=_dynamic(recipe),
                difficulty=_difficulty(recipe, inputs.rows),
                kernel=_kernel(recipe),
                peft_config=lora_config(recipe),
                quantization_config=_quantization(recipe),
                callbacks=trackers(recipe.monitor.report_to, recipe.output),
            )
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        text = (
            f": no model can be loaded from {recipe.model.path!r} ({reason}); give a folder with weights, or a hub id "
            "that can be reached"
        )
        refuse(("model", "path"), text)


def _check_trl() -> None:
    installed = version("trl")
    if not installed.startswith(TRL):
        raise ValueError(
            f"trl {installed} is installed; rlvr/trainer.py overrides private methods of trl {TRL}x: pip install "
            f"'trl=={TRL}*'"
        )


def trl_arguments(
    recipe: Recipe, plan: BatchPlan, objective: Objective, updates: int
) -> "GRPOConfig":
    """Return TRL's arguments: what the recipe says in its own words, then its further TRL fields."""
    from trl import GRPOConfig

    from rlvr.monitor.trackers import PROJECT

    training, rollout, model = recipe.training, recipe.rollout, recipe.model
    on_gpu = _on_gpu(recipe)
    dtype = _dtype(model.dtype, on_gpu)
    wants_reference = objective.kl_coef != 0 or "ref_logprobs" in objective.chain.needs
    arguments: dict[str, Any] = {
        "output_dir": str(recipe.output / CHECKPOINTS),
        "run_name": recipe.name,
        "project": PROJECT,
        "max_steps": updates,
        "learning_rate": training.learning_rate,
        "seed": training.seed,
        "save_strategy": "steps" if training.save_every else "no",
        "save_steps": training.save_every or 500,
        "save_total_limit": training.keep_checkpoints,
        "report_to": [],  # rlvr/monitor/trackers.py
        "max_completion_length": rollout.max_completion_length,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "min_p": rollout.min_p,
        "use_vllm": rollout.engine == "vllm",
        # TRL makes a reference model where beta is not 0; its value is not used
        "beta": 1.0 if wants_reference else 0.0,
        "use_cpu": not on_gpu,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "disable_dropout": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        # a loss that is not a number has to be seen
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,
        "model_init_kwargs": {
            # steps of 1e-6 vanish in bfloat16 weights: trained weights are float32, computed with in `dtype`
            "dtype": dtype if model.lora else torch.float32,
            "revision": model.revision,
            "attn_implementation": model.attention,
        },
        "trust_remote_code": model.trust_remote_code,
    }
    return GRPOConfig(**(arguments | plan.trl_arguments() | dict(training.model_extra or {})))


def _on_gpu(recipe: Recipe) -> bool:
    return recipe.training.device != "cpu" and torch.cuda.is_available()


def _dtype(name: str, on_gpu: bool) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32


def _dynamic(recipe: Recipe) -> Any:
    if recipe.rollout.dynamic_sampling is None:
        return None
    from rlvr.rollout.dynamic import DynamicSampling

    return DynamicSampling(**recipe.rollout.dynamic_sampling.model_dump())


def _difficulty(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> Any:
    options = recipe.rollout.difficulty
    if options is None:
        return None
    from rlvr.rollout.difficulty import Difficulty, Memory, read_memory

    start = Memory.blank(len(rows))
    if options.start is not None:
        start = read_memory(Path(options.start), rows)
    return Difficulty(**options.model_dump(exclude={"start"}), start=start)


def _kernel(recipe: Recipe) -> Any:
    from rlvr.logprobs import KernelOptions

    kernel = recipe.kernel
    return KernelOptions(
        impl=kernel.impl,
        cache_bytes=None if kernel.cache_gib is None else int(kernel.cache_gib * 2**30),
        tolerance=kernel.tolerance,
    )


def _quantization(recipe: Recipe) -> Any:
    if recipe.model.quantization is None:
        return None
    from rlvr.quantization import quantization_config

    return quantization_config(
        recipe.model.quantization, _dtype(recipe.model.dtype, _on_gpu(recipe))
    )


def lora_config(recipe: Recipe) -> Any:
    """Return the adapter that is trained, as peft has it; None: all weights are."""
    if recipe.model.lora is None:
        return None
    from peft import LoraConfig

    lora = recipe.model.lora
    modules = lora.target_modules
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )
