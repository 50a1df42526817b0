"""`rlvr eval`: held-out pass@k of a run's final model, or of any model under a recipe's protocol."""

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.console import plain_table, say
from rlvr.recipe import Recipe, parse_recipe_arguments

if TYPE_CHECKING:
    from rich.table import Table

    from rlvr.evaluate.suite import Generate

FINAL, RESOLVED = "final", "resolved.yaml"


def evaluate(run: str, arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure pass@k on a recipe's held-out sets, print a table and write `eval.json`.

    Args:
        run: A run folder: its final model and its own recipe. Else a model folder or hub id, with a recipe in
            `arguments`.
        arguments: `[RECIPE] [OVERLAY.yaml ...] [KEY=VALUE ...]`.

    Returns:
        The metrics, as in metrics.jsonl.

    Raises:
        ValueError: If there is no model, no recipe, or no held-out set.
    """
    folder = Path(run)
    is_run = (folder / RESOLVED).is_file()
    recipe = _recipe(folder, arguments) if is_run else _recipe(None, arguments)
    model = str(folder / FINAL) if is_run else run
    if is_run and not Path(model).is_dir():
        raise ValueError(
            f"{folder} has no {FINAL}/ yet: the run is not finished; evaluate a checkpoint with rlvr eval "
            f"{folder}/checkpoints/checkpoint-N {folder / RESOLVED}"
        )
    if not recipe.evaluation.sets:
        raise ValueError(
            f"the recipe {recipe.name} has no held-out set; add one, for example evaluation.sets='[{{name: MATH-500, "
            "path: HuggingFaceH4/MATH-500, split: test}]'"
        )
    metrics = _measure(recipe, model)
    from rich.console import Console

    Console().print(table(recipe, metrics))
    say(f"written   {_write(folder if is_run else Path(), recipe, model, metrics)}")
    return metrics


def _recipe(run: Path | None, arguments: Sequence[str]) -> Recipe:
    """Return the recipe of the arguments, or that of the run with the arguments over it."""
    from rlvr.check.methods import check_methods
    from rlvr.compose import is_override

    items = list(arguments)
    if run is not None and all(is_override(item) for item in items):
        items = [str(run / RESOLVED), *items]
    recipe, origins = parse_recipe_arguments(items)
    check_methods(recipe, origins)
    return recipe


def _measure(recipe: Recipe, model: str) -> dict[str, float]:
    from rlvr.evaluate.suite import evaluate_set
    from rlvr.inputs import load_held_out, load_tokenizer, make_scorer, prompt_limit
    from rlvr.monitor.progress import Progress

    settings = recipe.evaluation
    of_model = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"path": model, "revision": None})}
    )
    metrics: dict[str, float] = {}
    with make_scorer(recipe, recipe.rewards.verifiers) as scorer:
        scorer.start()
        tokenizer = load_tokenizer(of_model)
        # an adapter's folder has no configuration of the model: its base does
        sets, notes = load_held_out(recipe, tokenizer, prompt_limit(recipe), scorer)
        for note in notes:
            say(f"note      {note}")
        generate = _generator(recipe, model, tokenizer)
        with Progress() as progress:
            for held_out in sets:
                values, _ = evaluate_set(
                    held_out.name,
                    held_out.rows,
                    generate,
                    held_out.scorer,
                    samples=settings.samples,
                    ks=settings.k,
                    batch_size=settings.batch_size,
                    left_out=held_out.left_out,
                    steps=progress.steps,
                )
                metrics |= values
        for held_out in sets:
            held_out.scorer.close()
    return metrics


def _generator(recipe: Recipe, model: str, tokenizer: Any) -> "Generate":
    """Return what samples from a model: folder of weights, of an adapter, or hub id."""
    import torch
    from transformers import AutoModelForCausalLM

    from rlvr.evaluate.suite import Generation, Prompt

    settings = recipe.evaluation
    on_gpu = recipe.training.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = recipe.model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu and torch.cuda.is_bf16_supported() else "float32"
    try:
        policy: Any = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            attn_implementation=recipe.model.attention,
            trust_remote_code=recipe.model.trust_remote_code,
        )
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"no model can be loaded from {model!r} ({reason})") from None
    policy = policy.to(device).eval()
    limit = settings.max_completion_length or recipe.rollout.max_completion_length
    ends = _end_tokens(policy, tokenizer)
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
        sampling |= {"top_k": 0}
    seeds = count(recipe.training.seed)

    def generate(prompts: list[Prompt], n: int) -> list[list[Generation]]:
        texts = [_text(prompt, tokenizer) for prompt in prompts for _ in range(n)]
        # a chat template writes the special tokens itself
        is_chat = isinstance(prompts[0], list)
        batch = tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=not is_chat
        ).to(device)
        torch.manual_seed(next(seeds))
        with torch.inference_mode():
            ids = policy.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=limit,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                **sampling,
            )
        completions = [
            _generation(row, ends, tokenizer)
            for row in ids[:, batch["input_ids"].shape[1] :].tolist()
        ]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    return generate


def _text(prompt: Any, tokenizer: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)


def _end_tokens(policy: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a completion: the model's and the tokenizer's."""
    declared = policy.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return sorted({token for token in [*declared, tokenizer.eos_token_id] if token is not None})


def _generation(ids: list[int], ends: list[int], tokenizer: Any) -> Any:
    from rlvr.evaluate.suite import Generation

    end = next((i for i, token in enumerate(ids) if token in ends), None)
    own = ids if end is None else ids[: end + 1]
    text = tokenizer.decode(own, skip_special_tokens=True)
    return Generation(text, len(own), truncated=end is None)


def table(recipe: Recipe, metrics: dict[str, float]) -> "Table":
    """Return what was measured, a line each set."""
    settings = recipe.evaluation
    ks = sorted(k for k in settings.k if k <= settings.samples)
    out = plain_table()
    headings = ["set", "prompts", *(f"pass@{k}" for k in ks), "distinct correct", "truncated"]
    for heading in [*headings, "not judged"]:
        out.add_column(heading, justify="left" if heading == "set" else "right")
    for held_out in settings.sets:
        at = f"eval/{held_out.name}"
        lost = sum(metrics[f"{at}/verdict/{name}"] for name in ("timeout", "crashed", "skipped"))
        cells = [held_out.name, f"{metrics[f'{at}/prompts']:.0f}"]
        for k in ks:
            low, high = metrics[f"{at}/pass@{k}/low"], metrics[f"{at}/pass@{k}/high"]
            cells.append(f"{metrics[f'{at}/pass@{k}']:.3f} [{low:.3f}, {high:.3f}]")
        cells += [f"{metrics[f'{at}/distinct_correct']:.2f}"]
        cells += [f"{metrics[f'{at}/truncated_fraction']:.1%}", f"{lost:.1%}"]
        # brackets are rich's markup
        out.add_row(*(cell.replace("[", r"\[") for cell in cells))
    return out


def _write(folder: Path, recipe: Recipe, model: str, metrics: dict[str, float]) -> Path:
    """Write numbers with the protocol that gave them, beside earlier ones."""
    from importlib.metadata import version

    number, path = 1, folder / "eval.json"
    while path.exists():
        number += 1
        path = folder / f"eval_{number}.json"
    verifiers = [item.model_dump() for item in recipe.rewards.verifiers]
    content = {
        "model": model,
        "metrics": metrics,
        "protocol": recipe.evaluation.model_dump(mode="json") | {"verifiers": verifiers},
        "seed": recipe.training.seed,
        "versions": {
            name: version(name) for name in ("rlvr", "torch", "transformers", "math-verify")
        },
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return path
