"""Fields of TRL's GRPOConfig that a recipe sets elsewhere, with the key that sets them."""

from rlvr.catalog import fits, trl_fields
from rlvr.recipe_error import Problem, show
from rlvr.suggest import closest

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


def owner(name: str) -> str | None:
    """Return the recipe key that takes the place of a TRL field; None: the field is free.

    Example:
        >>> owner("num_generations"), owner("logging_steps"), owner("warmup_steps")
        ('rollout.group_size', 'monitor (every update is recorded)', None)
    """
    prefixed = (key for prefix, key in _PREFIXES.items() if name.startswith(prefix))
    return OWNED.get(name) or next(prefixed, None)


def training_problems(extra: dict[str, object], known: list[str]) -> list[Problem]:
    """Return what is wrong with the keys of `training` beyond our own.

    Args:
        extra: Those keys with their values.
        known: Our own keys.
    """
    problems = []
    for name, value in extra.items():
        instead, fields = owner(name), trl_fields()
        if instead is not None:
            text = f"is TRL's name; set {instead} instead."
        elif name not in fields:
            free = [field for field in fields if owner(field) is None]
            suggestion = closest(name, [*known, *free])
            question = f" Did you mean '{suggestion}'?" if suggestion else ""
            text = (
                f"is not a key.{question} training takes: {', '.join(known)}, "
                "and the other fields of TRL's GRPOConfig."
            )
        elif not fits(value, fields[name]):
            text = f"is {show(value)}; TRL takes {fields[name]}."
        else:
            continue
        problems.append(Problem(("training", name), text))
    return problems
