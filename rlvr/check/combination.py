"""What the values of a recipe must satisfy together, and values that would have no effect."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from rlvr import catalog
from rlvr.check.schema import all_keys, elsewhere
from rlvr.check.trl_names import training_problems
from rlvr.recipe_error import Path, Problem, dotted, show
from rlvr.suggest import did_you_mean, misspelt, question, unknown_name

if TYPE_CHECKING:
    from rlvr.compose import Origins
    from rlvr.recipe import DataSource, NamedItem, Recipe

DDP_TIMEOUT = 1800
"""Seconds after which processes give up waiting, where the recipe does not say: TRL's default."""
SHORTEST_BEAT = 0.1
"""Seconds."""


_ATTENTION = ("sdpa", "eager", "flex_attention", *(f"flash_attention_{n}" for n in (2, 3, 4)))
"""Of transformers; a kernel from the hub is owner/name."""


def combination_problems(recipe: Recipe) -> list[Problem]:
    """Return every wrong combination of values; the values themselves have passed the schema."""
    return [
        *_model_problems(recipe),
        *_output_problems(recipe),
        *_attention_problems(recipe),
        *_source_problems(recipe),
        *_rollout_problems(recipe),
        *_method_problems(recipe),
        *_training_problems(recipe),
        *_monitor_problems(recipe),
        *_kernel_problems(recipe),
        *_evaluation_problems(recipe),
    ]


def nearest(wanted: int, candidates: Iterator[int] | range) -> str:
    """Return the one or two candidates closest to `wanted`, as words.

    Example:
        >>> nearest(30, range(16, 65, 16))
        '16 or 32'
    """
    below = above = None
    for number in candidates:
        if number <= wanted:
            below = number if below is None else max(below, number)
        else:
            above = number if above is None else min(above, number)
    return " or ".join(str(number) for number in (below, above) if number is not None)


def divisors(number: int) -> Iterator[int]:
    """Yield the divisors of a positive number in ascending order."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    yield from small
    yield from (number // size for size in reversed(small) if size * size != number)


def sources(recipe: Recipe) -> list[tuple[Path, DataSource]]:
    """Return every data source of a recipe with its path."""
    held_out = [(("evaluation", "sets", i), s) for i, s in enumerate(recipe.evaluation.sets)]
    return [(("data",), recipe.data), *held_out]


def verifier_lists(recipe: Recipe) -> list[tuple[Path, tuple[NamedItem, ...]]]:
    """Return every list of verifiers of a recipe with its path."""
    own = [
        (("evaluation", "sets", i, "verifiers"), s.verifiers)
        for i, s in enumerate(recipe.evaluation.sets)
        if s.verifiers is not None
    ]
    return [(("rewards", "verifiers"), recipe.rewards.verifiers), *own]


def _model_problems(recipe: Recipe) -> Iterator[Problem]:
    model, path = recipe.model, ("model", "quantization")
    if model.quantization is None:
        return
    if model.lora is None:
        text = (
            f"is {model.quantization}, but model.lora is null: rounded weights cannot be trained, an adapter on them "
            "can; set model.lora={rank: 16}, or quantization: null."
        )
        yield Problem(path, text, also=(("model", "lora"),))
    if recipe.rollout.engine == "vllm":
        text = (
            f"is {model.quantization}, but for rollout.engine vllm TRL merges the adapter into the base at each rollout "
            "and takes it out again, which rounds the base anew each time; use engine: transformers, or quantization: "
            "null."
        )
        yield Problem(path, text, also=(("rollout", "engine"),))


def _output_problems(recipe: Recipe) -> Iterator[Problem]:
    if recipe.output == FilePath():
        text = f"is the folder in which the command runs; a run needs one of its own, as runs/{recipe.name}."
        yield Problem(("output",), text)


def _attention_problems(recipe: Recipe) -> Iterator[Problem]:
    name = recipe.model.attention
    if name is not None and name not in _ATTENTION and "/" not in name:
        text = (
            f": {unknown_name('attention', name, _ATTENTION)} A kernel from the hub is owner/name."
        )
        yield Problem(("model", "attention"), text)


def _source_problems(recipe: Recipe) -> Iterator[Problem]:
    for path, source in sources(recipe):
        keys = ((*path, "path"), (*path, "task"))
        if source.path is None and source.task is None:
            text = "has neither path nor task; set one: path: <hub id or file>, or task: countdown."
            yield Problem(path, text, also=keys)
        if source.path is not None and source.task is not None:
            where = dotted(path)
            text = (
                f"is {show(source.path)} and {where}.task is {show(source.task)}; keep one "
                f"({where}.path=null drops the path)."
            )
            yield Problem(keys[0], text, also=keys)
        if source.task is not None and source.split not in ("train", "test"):
            text = f"is {show(source.split)}; a task has the splits train and test."
            yield Problem((*path, "split"), text)
        own = any(":" in item.name for _, items in verifier_lists(recipe) for item in items)
        for ours in source.columns if not own else ():
            near = misspelt(ours, ("prompt", "answer", "task"))
            if near and ours not in near and f"{{{ours}" not in (source.template or ""):
                yield Problem(
                    (*path, "columns", ours), f"is a column that nothing reads.{question(near)}"
                )
        if source.template is not None:
            yield from _template_problems((*path, "template"), source.template)


def _template_problems(path: Path, template: str) -> Iterator[Problem]:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        yield Problem(path, f"is not a format string ({error}); write {{{{ and }}}} for braces.")
        return
    if any(not name or name.isdigit() for name in fields):
        yield Problem(path, "has a {} without a column name; write {{}} for braces in the text.")
    elif not fields:
        yield Problem(path, "names no column, so every prompt is the same; use {prompt}.")


def _rollout_problems(recipe: Recipe) -> Iterator[Problem]:
    rollout = recipe.rollout
    total, part = rollout.prompts_per_rollout, rollout.prompts_per_update
    if rollout.group_size == 1:
        text = (
            "is 1, so every advantage is 0 and nothing is learned; set group_size to 2 or more "
            "(8 is common)."
        )
        yield Problem(("rollout", "group_size"), text)
    if total % part:
        multiples = range(part, total + part + 1, part)
        text = (
            f"is {total}, not a multiple of prompts_per_update {part}; set prompts_per_rollout to "
            f"{nearest(total, multiples)}, or prompts_per_update to {nearest(part, divisors(total))}."
        )
        keys = (("rollout", "prompts_per_update"),)
        yield Problem(("rollout", "prompts_per_rollout"), text, also=keys)
    difficulty = rollout.difficulty
    if difficulty is not None and difficulty.min_pass_rate > difficulty.max_pass_rate:
        text = (
            f"is {difficulty.min_pass_rate:g}, more than max_pass_rate {difficulty.max_pass_rate:g}: every prompt "
            "would be left out; lower it."
        )
        other = ("rollout", "difficulty", "max_pass_rate")
        yield Problem(("rollout", "difficulty", "min_pass_rate"), text, also=(other,))
    yield from _generation_problems(recipe)
    if rollout.engine == "vllm":
        yield from _vllm_problems(recipe)


GENERATION = {
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "min_p": "rollout.min_p",
    "max_new_tokens": "rollout.max_completion_length",
    "max_length": "rollout.max_completion_length",
    "max_tokens": "rollout.max_completion_length",
    "num_return_sequences": "rollout.group_size",
    "n": "rollout.group_size",
    "do_sample": "rollout.temperature",
    "seed": "training.seed",
    "logprobs": "rollout.correction_max",
}
"""Keys of TRL's `generation_kwargs`, which overrule everything -> what to set instead."""


def _generation_problems(recipe: Recipe) -> Iterator[Problem]:
    given = (recipe.training.model_extra or {}).get("generation_kwargs")
    for name in given if isinstance(given, dict) else ():
        if name in GENERATION:
            text = f"would sample otherwise than the loss computes; set {GENERATION[name]} instead."
            yield Problem(("training", "generation_kwargs", name), text)


def _vllm_problems(recipe: Recipe) -> Iterator[Problem]:
    rollout, extra = recipe.rollout, recipe.training.model_extra or {}
    form = extra.get("vllm_structured_outputs_regex")
    cuts: dict[Path, tuple[object, bool]] = {
        ("rollout", "top_p"): (rollout.top_p, rollout.top_p < 1),
        ("rollout", "top_k"): (rollout.top_k, rollout.top_k > 0),
        ("rollout", "min_p"): (rollout.min_p, bool(rollout.min_p)),
        ("training", "vllm_structured_outputs_regex"): (form, form is not None),
    }
    for path, (value, active) in cuts.items():
        if active and rollout.correction_max is not None:
            text = (
                f"is {show(value)}: vLLM reports log-probs renormalised over the tokens "
                "it kept, so the correction for its mismatch is biased; turn the cut off, or the correction "
                "(rollout.correction_max: null)."
            )
            keys = (("rollout", "engine"), ("rollout", "correction_max"))
            yield Problem(path, text, also=keys)
    if recipe.training.device == "cpu":
        text = "is vllm, which needs a GPU, and training.device is cpu; use engine: transformers."
        yield Problem(("rollout", "engine"), text, also=(("training", "device"),))


def _method_problems(recipe: Recipe) -> Iterator[Problem]:
    known = catalog.methods("entropy")
    counts = Counter(item.name for item in recipe.entropy)
    for index, item in enumerate(recipe.entropy):
        if item.name not in known:
            text = f": {unknown_name('entropy control', item.name, known)}"
            yield Problem(("entropy", index), text)
        elif counts[item.name] > 1 and index == [i.name for i in recipe.entropy].index(item.name):
            yield Problem(("entropy",), f"has {item.name} {counts[item.name]} times; keep one.")
    for path, items in verifier_lists(recipe):
        yield from _verifier_problems(path, items)
    for key in ("surrogate", "aggregate", "advantage"):
        yield from _function_problems(("algorithm", key), getattr(recipe.algorithm, key), key)


def _verifier_problems(path: Path, items: tuple[NamedItem, ...]) -> Iterator[Problem]:
    known = catalog.methods("rewards")
    for index, item in enumerate(items):
        here = (*path, index)
        if ":" not in item.name and item.name not in known:
            hint = " A function of yours is path/to/file.py:function."
            yield Problem(here, f": {unknown_name('verifier', item.name, known)}{hint}")


def _function_problems(path: Path, item: NamedItem, module: str) -> Iterator[Problem]:
    known = catalog.functions(module)
    if item.name not in known:
        yield Problem(path, f": {unknown_name(module, item.name, known)}")
        return
    options = known[item.name].options
    for name, value in item.options.items():
        here = (*path, item.name, name)
        if name not in options:
            names = ", ".join(options) or "no options"
            question = did_you_mean(name, options)
            yield Problem(here, f"is not an option.{question} {item.name} takes: {names}.")
        elif not catalog.fits(value, options[name].annotation):
            yield Problem(here, f"is {show(value)}; it must be {options[name].annotation}.")
    for name, option in options.items():
        if option.required and name not in item.options:
            text = f"needs {name}: write {path[-1]}: {{{item.name}: {{{name}: ...}}}}."
            yield Problem(path, text)


def _micro_batch_problems(recipe: Recipe) -> Iterator[Problem]:
    tokens, rows = recipe.training.tokens_per_micro_batch, recipe.training.micro_batch_size
    if tokens is None:
        return
    by_tokens, by_rows = ("training", "tokens_per_micro_batch"), ("training", "micro_batch_size")
    if rows is not None:
        text = f"is {tokens} and training.micro_batch_size is {rows}; keep one, and set the other to null."
        yield Problem(by_tokens, text, also=(by_rows,))
    completion, prompt = recipe.rollout.max_completion_length, recipe.data.max_prompt_length or 1
    if tokens < completion + prompt:
        text = (
            f"is {tokens}, but one completion may have {completion} tokens (rollout.max_completion_length) after a prompt "
            f"of {prompt}; set it to {completion + prompt} or more."
        )
        yield Problem(by_tokens, text, also=(("rollout", "max_completion_length"),))


def _training_problems(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    updates, epochs = ("training", "updates"), ("training", "epochs")
    if training.updates is None and training.epochs is None:
        text = "has neither updates nor epochs; set one, for example updates: 400."
        yield Problem(("training",), text, also=(updates, epochs))
    if training.updates is not None and training.epochs is not None:
        text = (
            f"is {training.updates} and training.epochs is {training.epochs:g}; keep one "
            "(training.updates=null drops the updates)."
        )
        yield Problem(updates, text, also=(epochs,))
    places = all_keys(type(recipe))
    yield from training_problems(
        training.model_extra or {},
        list(type(training).model_fields),
        lambda name: elsewhere(name, places),
    )
    yield from _micro_batch_problems(recipe)
    rewards = recipe.rewards
    if rewards.batch_deadline < rewards.deadline:
        text = (
            f"is {rewards.batch_deadline:g} s, less than rewards.deadline {rewards.deadline:g} s."
        )
        yield Problem(("rewards", "batch_deadline"), text, also=(("rewards", "deadline"),))
    patience = collective_timeout(recipe)
    if isinstance(patience, int | float) and rewards.batch_deadline >= patience:
        text = (
            f"is {rewards.batch_deadline:g} s, but processes give up waiting for each other after "
            f"training.ddp_timeout ({patience:g} s), and the slowest scoring would end the run; lower it "
            "below that, or raise training.ddp_timeout."
        )
        yield Problem(("rewards", "batch_deadline"), text, also=(("training", "ddp_timeout"),))


def collective_timeout(recipe: Recipe) -> float:
    """Return the seconds after which a process that waits for the others ends the run."""
    return (recipe.training.model_extra or {}).get("ddp_timeout", DDP_TIMEOUT)


def _monitor_problems(recipe: Recipe) -> Iterator[Problem]:
    every, stall_after = recipe.monitor.heartbeat_every, recipe.monitor.stall_after
    if 0 < every < SHORTEST_BEAT:
        text = f"is {every:g} s; it must be 0 (none) or at least {SHORTEST_BEAT:g} s."
        yield Problem(("monitor", "heartbeat_every"), text)
    if stall_after is None:
        return
    if stall_after < every:
        text = f"is {stall_after:g} s, but is looked at every {every:g} s only; raise it, or lower monitor.heartbeat_every."
        yield Problem(("monitor", "stall_after"), text, also=(("monitor", "heartbeat_every"),))
    patience = collective_timeout(recipe)
    if isinstance(patience, int | float) and stall_after >= patience:
        text = (
            f"is {stall_after:g} s, but a run whose processes wait for each other ends after training.ddp_timeout "
            f"({patience:g} s); set it below that, or to null (80 % of it)."
        )
        yield Problem(("monitor", "stall_after"), text, also=(("training", "ddp_timeout"),))


def _kernel_problems(recipe: Recipe) -> Iterator[Problem]:
    kernel = recipe.kernel
    if kernel.impl == "naive" and kernel.tolerance is not None:
        text = "is naive, which leaves nothing out: kernel.tolerance has no effect; remove it, or choose auto."
        yield Problem(("kernel", "impl"), text, also=(("kernel", "tolerance"),))
    if kernel.tolerance is not None and kernel.cache_gib:
        text = f"is {show(kernel.cache_gib)}, but with kernel.tolerance nothing is kept for the backward pass; remove one."
        yield Problem(("kernel", "cache_gib"), text, also=(("kernel", "tolerance"),))
    if kernel.impl == "naive" and kernel.cache_gib:
        text = (
            f"is {show(kernel.cache_gib)}, but impl is naive, which keeps every logit; remove it."
        )
        yield Problem(("kernel", "cache_gib"), text, also=(("kernel", "impl"),))


def _evaluation_problems(recipe: Recipe) -> Iterator[Problem]:
    evaluation = recipe.evaluation
    if max(evaluation.k) > evaluation.samples:
        text = (
            f"has {max(evaluation.k)}, more than evaluation.samples {evaluation.samples}: pass@k needs at "
            f"least k completions of a problem; set samples to {max(evaluation.k)} or drop that k."
        )
        yield Problem(("evaluation", "k"), text, also=(("evaluation", "samples"),))
    if evaluation.temperature == 0 and evaluation.samples > 1:
        text = f"is 0 (greedy), so {evaluation.samples} samples are all the same; set samples: 1."
        yield Problem(("evaluation", "temperature"), text, also=(("evaluation", "samples"),))
    counts = Counter(item.name for item in evaluation.sets)
    for name in (name for name, count in counts.items() if count > 1):
        yield Problem(("evaluation", "sets"), f"has {counts[name]} sets named {name}; rename one.")


def no_effect_problems(recipe: Recipe, origins: Origins) -> list[Problem]:
    """Return the values that were set beside something that takes away their effect.

    A value that is inherited and made moot by a later source (a recipe over its base, an overlay, the command
    line) is no problem: only one that is set in the same source as its cause, or later.
    """
    return [
        Problem(path, text)
        for path, cause, text in _moot(recipe)
        if is_chosen(origins, path, cause)
    ]


def is_chosen(origins: Origins, path: Path, cause: Path) -> bool:
    """Return whether a value was given in the same source as `cause`, or in a later one."""
    layer = origins.layer(path)
    return layer is not None and layer >= 0 and layer >= (origins.layer(cause) or 0)


def _moot(recipe: Recipe) -> Iterator[tuple[Path, Path, str]]:
    """Yield (value, what takes its effect away, sentence)."""
    yield from _moot_algorithm(recipe)
    for path, source in sources(recipe):
        yield from _moot_source(path, source)
    evaluation, sets = recipe.evaluation, ("evaluation", "sets")
    if not evaluation.sets:
        for key in ("every", "at_start"):
            if getattr(evaluation, key):
                text = (
                    f"is {show(getattr(evaluation, key))}, but evaluation.sets is empty; add a set."
                )
                yield ("evaluation", key), sets, text
    if recipe.export.to is None and not recipe.export.private:
        text = "has no effect without export.to."
        yield ("export", "private"), ("export", "to"), text
    if recipe.monitor.heartbeat_every == 0 and recipe.monitor.stall_after is not None:
        text = f"is {show(recipe.monitor.stall_after)}, but monitor.heartbeat_every is 0: nobody looks; set it to 5."
        yield ("monitor", "stall_after"), ("monitor", "heartbeat_every"), text
    yield from _moot_difficulty(recipe)
    yield from _moot_vllm(recipe)
    if recipe.training.save_every == 0 and recipe.training.keep_checkpoints != 2:
        text = "has no effect with save_every 0: there is one checkpoint, at the end."
        yield ("training", "keep_checkpoints"), ("training", "save_every"), text


def _moot_algorithm(recipe: Recipe) -> Iterator[tuple[Path, Path, str]]:
    algorithm = recipe.algorithm
    surrogate = ("algorithm", "surrogate")
    functions = catalog.functions("surrogate")
    name = algorithm.surrogate.name
    defaults = type(algorithm).model_fields
    for key in ("clip_low", "clip_high", "dual_clip"):
        value = getattr(algorithm, key)
        if key not in functions[name].reads and value != defaults[key].default:
            users = ", ".join(other for other, item in functions.items() if key in item.reads)
            text = (
                f"is {show(value)}, but the surrogate {name} does not use it; remove it, or choose one "
                f"of: {users}."
            )
            yield ("algorithm", key), surrogate, text
    if algorithm.kl_coef == 0 and algorithm.kl_estimator != defaults["kl_estimator"].default:
        text = f"is {algorithm.kl_estimator}, but kl_coef is 0: no KL is estimated; set kl_coef."
        yield ("algorithm", "kl_estimator"), ("algorithm", "kl_coef"), text
    if recipe.rollout.engine != "vllm" and recipe.rollout.correction_max != 2.0:
        text = f"is {show(recipe.rollout.correction_max)}, but only rollout.engine vllm is corrected; remove it."
        yield ("rollout", "correction_max"), ("rollout", "engine"), text
    if recipe.rollout.engine == "vllm" and recipe.rollout.batch_size != 128:
        text = f"is {recipe.rollout.batch_size}, but vllm batches by itself; remove it."
        yield ("rollout", "batch_size"), ("rollout", "engine"), text
    if algorithm.kl_coef == 0 and not algorithm.kl_correction:
        text = "is false, but kl_coef is 0: there is no KL to correct; set kl_coef."
        yield ("algorithm", "kl_correction"), ("algorithm", "kl_coef"), text


VLLM_SERVER = (
    *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"),
    "vllm_group_port",
)
"""TRL's fields that only vllm_mode server reads."""
VLLM_COLOCATE = (
    *("vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size"),
    *("vllm_enable_sleep_mode", "vllm_model_impl"),
)
"""TRL's fields that only vllm_mode colocate reads."""


def _moot_vllm(recipe: Recipe) -> Iterator[tuple[Path, Path, str]]:
    extra = recipe.training.model_extra or {}
    engine, mode = ("rollout", "engine"), ("training", "vllm_mode")
    if recipe.rollout.engine != "vllm":
        for name in (name for name in extra if name.startswith("vllm_")):
            text = f"is {show(extra[name])}, but rollout.engine is {recipe.rollout.engine}; set rollout.engine: vllm, or remove it."
            yield ("training", name), engine, text
        return
    chosen = extra.get("vllm_mode", "colocate")
    for name in VLLM_SERVER if chosen == "colocate" else VLLM_COLOCATE:
        if name in extra:
            where = "set vllm_mode: server" if chosen == "colocate" else "give it to vllm serve"
            text = f"is {show(extra[name])}, which training.vllm_mode {chosen} does not read; {where}, or remove it."
            yield ("training", name), mode, text
    if extra.get("vllm_server_base_url") is not None:
        for name in ("vllm_server_host", "vllm_server_port"):
            if name in extra:
                text = f"is {show(extra[name])}, but training.vllm_server_base_url says where the server is; keep one."
                yield ("training", name), ("training", "vllm_server_base_url"), text


def _moot_difficulty(recipe: Recipe) -> Iterator[tuple[Path, Path, str]]:
    difficulty = recipe.rollout.difficulty
    if difficulty is None or difficulty.filters:
        return
    for key in ("min_visits", "revisit_after"):
        value = getattr(difficulty, key)
        if value != type(difficulty).model_fields[key].default:
            text = (
                f"is {value:g}, but no prompt is left out with min_pass_rate 0 and max_pass_rate 1; set one of them, "
                "or remove it."
            )
            yield ("rollout", "difficulty", key), ("rollout", "difficulty"), text


def _moot_source(path: Path, source: DataSource) -> Iterator[tuple[Path, Path, str]]:
    if source.task is None:
        keys, cause, word = ["task_options", "size"], "path", "task"
    else:
        keys, cause, word = ["revision", "subset", "columns", "template"], "task", "data set"
    for key in keys:
        if value := getattr(source, key):
            where, chosen = dotted((*path, cause)), show(getattr(source, cause))
            text = f"is {show(value)}, which is for a {word}, but {where} is {chosen}; remove it."
            yield (*path, key), (*path, cause), text
