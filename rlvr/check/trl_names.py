"""Fields of TRL's GRPOConfig: those that a recipe sets elsewhere, with the key that sets them, and what the others take."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlvr.catalog import enum_values, fits, plain_types, trl_fields
from rlvr.recipe_error import Problem, show
from rlvr.suggest import did_you_mean, misspelt, question

_LOSS = "algorithm.surrogate, algorithm.aggregate"
_CONTROL = "an entropy control in `entropy`"
_VERIFIER = "rewards.verifiers"

OWNED = {
    "loss_type": _LOSS,
    "importance_sampling_level": "algorithm.surrogate: gspo",
    "epsilon": "algorithm.clip_low",
    "epsilon_high": "algorithm.clip_high",
    "delta": "algorithm.dual_clip",
    "sapo_temperature_pos": "algorithm.surrogate: {sapo: {tau_positive: ...}}",
    "sapo_temperature_neg": "algorithm.surrogate: {sapo: {tau_negative: ...}}",
    "off_policy_mask_threshold": _CONTROL,
    "use_bias_correction_kl": "algorithm.kl_correction",
    "use_liger_kernel": _LOSS,
    "liger_kernel_config": _LOSS,
    "beta": "algorithm.kl_coef",
    "scale_rewards": "algorithm.advantage",
    "mask_truncated_completions": "algorithm.mask_truncated",
    "top_entropy_quantile": _CONTROL,
    "entropy_target": _CONTROL,
    "use_adaptive_entropy": _CONTROL,
    "reward_weights": f"{_VERIFIER}: [NAME: {{weight: ...}}]",
    "multi_objective_aggregation": f"{_VERIFIER}: [NAME: {{weight: ...}}]",
    "num_generations": "rollout.group_size",
    "num_generations_eval": "evaluation.samples",
    "per_device_train_batch_size": "training.micro_batch_size",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "auto_find_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "rollout.prompts_per_update and training.micro_batch_size",
    "steps_per_generation": "rollout.prompts_per_rollout and rollout.prompts_per_update",
    "generation_batch_size": "rollout.prompts_per_rollout",
    "num_iterations": "rollout.passes",
    "max_completion_length": "rollout.max_completion_length",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "min_p": "rollout.min_p",
    "use_vllm": "rollout.engine: vllm",
    "model_init_kwargs": "model.dtype, model.attention, model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "output_dir": "output",
    "run_name": "name",
    "max_steps": "training.updates",
    "num_train_epochs": "training.epochs",
    "save_steps": "training.save_every",
    "save_strategy": "training.save_every",
    "save_total_limit": "training.keep_checkpoints",
    "save_only_model": "training.save_every",
    "load_best_model_at_end": "evaluation.at_end",
    "resume_from_checkpoint": "the option --resume",
    "use_cpu": "training.device: cpu",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "bf16_full_eval": "model.dtype",
    "fp16_full_eval": "model.dtype",
    "local_rank": "nothing: the launcher says it",
    "label_names": "nothing: there are no labels",
    "label_smoothing_factor": "nothing: there are no labels",
    "include_for_metrics": "evaluation",
    "batch_eval_metrics": "evaluation",
    "prediction_loss_only": "evaluation",
    "metric_for_best_model": "evaluation",
    "greater_is_better": "evaluation",
    "report_to": "monitor.report_to",
    "log_completions": "monitor.completions_every",
    "num_completions_to_print": "monitor.completions_every",
    "log_unique_prompts": "monitor.completions_every",
    "log_completions_hub_repo": "monitor.completions_every",
    "disable_tqdm": "monitor.progress",
    "push_to_hub": "export.to",
    "do_train": "rlvr train",
    "do_eval": "evaluation",
    "do_predict": "evaluation",
    "data_seed": "training.seed",
    "deepspeed": "accelerate launch --config_file recipes/accelerate/zero2.yaml",
    "fsdp": "accelerate launch --config_file ...",
    "remove_unused_columns": "data.columns",
    "shuffle_dataset": "training.seed (prompts always come in a shuffled order)",
    "max_tool_calling_iterations": "nothing: rollouts are one turn, without tools",
    "log_multimodal": "nothing: data are text",
}
"""Name in TRL -> what to set instead."""

_PREFIXES = {
    "vespo_": _LOSS,
    "vllm_importance_sampling_": "rollout.correction_max",
    "entropy_coef": _CONTROL,
    "logging_": "monitor (every update is recorded)",
    "eval_": "evaluation",
    "hub_": "export.to and export.private",
    "fsdp_": "accelerate launch --config_file ...",
}


@dataclass(frozen=True)
class Range:
    """Numbers that a field takes.

    Example:
        >>> str(Range(ge=0, lt=1)), 1.0 in Range(ge=0, lt=1), math.inf in Range(ge=0)
        ('at least 0 and below 1', False, False)
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: Any) -> bool:
        return (
            -math.inf < value < math.inf
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        words = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        return " and ".join(f"{w} {limit:g}" for w, limit in words.items() if limit is not None)


_NOT_NEGATIVE, _POSITIVE, _SHARE = Range(ge=0), Range(gt=0), Range(ge=0, le=1)
_PORT = Range(ge=1, le=65535)

RANGES = {
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": Range(ge=0, lt=1),
    "adam_beta2": Range(ge=0, lt=1),
    "adam_epsilon": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "torch_empty_cache_steps": _POSITIVE,
    "dataloader_num_workers": Range(ge=0, le=1024),
    "dataloader_prefetch_factor": _POSITIVE,
    "ddp_bucket_cap_mb": _POSITIVE,
    "ddp_timeout": Range(gt=0, le=10**8),
    "router_aux_loss_coef": _NOT_NEGATIVE,
    "pad_to_multiple_of": _POSITIVE,
    "repetition_penalty": _POSITIVE,
    "vllm_server_port": _PORT,
    "vllm_server_timeout": _NOT_NEGATIVE,
    "vllm_group_port": _PORT,
    "vllm_gpu_memory_utilization": Range(gt=0, le=1),
    "vllm_max_model_length": _POSITIVE,
    "vllm_tensor_parallel_size": _POSITIVE,
    "ref_model_mixup_alpha": _SHARE,
    "ref_model_sync_steps": _POSITIVE,
}
"""Numbers that TRL's fields take where its own check comes late or never."""

_FILES = ("accelerator_config",)
"""Mappings that may be the name of a file."""
_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")

CHOICES: dict[str, Callable[[], tuple[str, ...]]] = {
    "lr_scheduler_type": lambda: enum_values("transformers", "trainer_utils.py", "SchedulerType"),
    "optim": lambda: enum_values("transformers", "training_args.py", "OptimizerNames"),
    "vllm_mode": lambda: ("colocate", "server"),
    "vllm_model_impl": lambda: ("vllm", "transformers"),
    "ddp_backend": lambda: ("nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl"),
    "log_level": lambda: _LEVELS,
    "log_level_replica": lambda: _LEVELS,
    "train_sampling_strategy": lambda: ("random", "sequential"),
    "cache_implementation": lambda: ("static", "offloaded_static", "dynamic", "offloaded"),
}
"""Words that TRL's fields take."""


def owner(name: str) -> str | None:
    """Return the recipe key that takes the place of a TRL field; None: the field is free.

    Example:
        >>> owner("num_generations"), owner("logging_steps"), owner("warmup_steps")
        ('rollout.group_size', 'monitor (every update is recorded)', None)
    """
    prefixed = (key for prefix, key in _PREFIXES.items() if name.startswith(prefix))
    return OWNED.get(name) or next(prefixed, None)


def training_problems(
    extra: dict[str, object], known: list[str], elsewhere: Callable[[str], str]
) -> list[Problem]:
    """Return what is wrong with the keys of `training` beyond our own.

    Args:
        extra: Those keys with their values.
        known: Our own keys.
        elsewhere: Says what to write instead of a key that has its place elsewhere; "" of others.
    """
    texts = {name: _problem(name, value, known, elsewhere) for name, value in extra.items()}
    return [Problem(("training", name), text) for name, text in texts.items() if text]


def _problem(name: str, value: object, known: list[str], elsewhere: Callable[[str], str]) -> str:
    fields = trl_fields()
    if owner(name) is not None:
        return f"is TRL's name; set {owner(name)} instead."
    if name in fields:
        return _value_problem(name, value, fields[name])
    free = [*known, *(field for field in fields if owner(field) is None)]
    if not (near := misspelt(name, free)):
        if owned := misspelt(name, OWNED):
            return (
                f"is not a key.{question(owned)} That is TRL's name; set {OWNED[owned[0]]} instead."
            )
        if instead := elsewhere(name):
            return instead
    return (
        f"is not a key.{question(near) or did_you_mean(name, free)} training takes: {', '.join(known)}, "
        "and the other fields of TRL's GRPOConfig."
    )


def _value_problem(name: str, value: object, annotation: str) -> str:
    if name in CHOICES:
        words = CHOICES[name]()
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        is_null = value is None and "None" in annotation
        return (
            ""
            if value in words or is_null
            else f"is {show(value)}; it is one of {', '.join(words)}.{near}"
        )
    if not fits(value, annotation):
        return f"is {show(value)}; TRL takes {annotation}."
    if isinstance(value, str) and dict in plain_types(annotation) and name not in _FILES:
        return f"is {show(value)}; it must be a mapping."
    if isinstance(value, int | float) and not isinstance(value, bool):
        allowed = RANGES.get(name, Range())
        if value not in allowed:
            return (
                f"is {show(value)}; it must be {allowed if name in RANGES else 'a finite number'}."
            )
    return ""
