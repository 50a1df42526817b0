"""The model card of a run: what was trained, on what, how entropy and held-out results moved, how to do it again."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr.catalog import methods
from rlvr.monitor.store import Run
from rlvr.monitor.summary import number
from rlvr.weights import Verified

PICTURE = "curves.png"
_HELD_OUT = ("distinct_correct", "entropy", "length", "truncated_fraction")


@dataclass(frozen=True)
class Subject:
    """What a card is about."""

    run: Run
    """Up to the update of the exported weights."""
    address: str
    """Where the model will be found: `user/name`, or a folder."""
    origin: str
    """`final`, or `checkpoint-<update>`."""
    weights: Verified
    notes: Sequence[str] = ()
    """What a reader should know of the files."""


def model_card(subject: Subject) -> str:
    """Return README.md: front matter for the hub, then the card."""
    run = subject.run
    parts = [
        f"---\n{yaml.safe_dump(front_matter(run.recipe), sort_keys=False, allow_unicode=True)}---",
        f"# {run.name}",
        _what(subject),
        f"![Curves of the run]({PICTURE})",
        _training(run),
        _held_out(run),
        _loading(subject),
        _source(run.recipe),
        _recipe(run),
        _versions(run.folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that the hub reads; what is not known is left out."""
    controls = [_item_name(item) for item in recipe.get("entropy") or []]
    base, data = recipe["model"]["path"], recipe["data"].get("path")
    found: dict[str, Any] = {}
    if is_hub_id(base):
        found |= {"base_model": base, "base_model_relation": "finetune"}
    found |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if data and is_hub_id(data):
        found["datasets"] = [data]
    return found | {"tags": ["rlvr", "grpo", *controls]}


def is_hub_id(path: str) -> bool:
    """Return whether a path of a recipe names something on the hub, not a file or folder.

    Example:
        >>> is_hub_id("Qwen/Qwen2.5-Math-7B"), is_hub_id("./models/mine"), is_hub_id("/models/mine")
        (True, False, False)
    """
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path)) and not Path(path).exists()


def _what(subject: Subject) -> str:
    run, weights = subject.run, subject.weights
    recipe = run.recipe
    data, rollout = recipe["data"], recipe["rollout"]
    controls = recipe.get("entropy") or []
    base = _plain_name(recipe["model"]["path"])
    on = _plain_name(data.get("path") or data.get("task"))
    verifiers = ", ".join(
        f"`{_item_name(item)}`" for item in recipe["rewards"].get("verifiers") or []
    )
    lines = [
        f"{base} after {int(run.updates[-1])} updates of reinforcement learning with verifiable rewards on {on}, "
        f"made with rlvr. The rewards come from {verifiers}. A rollout has {rollout['prompts_per_rollout']} prompts x "
        f"{rollout['group_size']} completions, an update {rollout['prompts_per_update']} prompts.",
        "",
    ]
    lines += [_control(item) for item in controls] or ["Entropy control: none (plain GRPO)."]
    if recipe.get("expect"):
        lines += ["", f"What the recipe expects: {recipe['expect']}."]
    merged = " The adapter is merged into its base." if weights.merged else ""
    lines += [
        "",
        f"Weights: `{subject.origin}` of the run, {weights.parameters:,} parameters in {weights.dtype}.{merged} After "
        f"saving they were opened again: {weights.tensors} tensors, all finite, logits within "
        f"{weights.difference:.2g} of the trained model's (largest logit {weights.scale:.3g}).",
    ]
    return "\n".join(lines + [f"\n{note}" for note in subject.notes])


def _control(item: Any) -> str:
    name = _item_name(item)
    method = methods("entropy").get(name)
    if method is None:
        return f"Entropy control: `{name}`."
    paper = f" ([paper]({method.paper}))" if method.paper else ""
    return f"Entropy control: `{name}`{paper}. {method.summary}"


def _training(run: Run) -> str:
    names = [
        name for name in ("reward", "entropy", "length/mean", "kl") if len(run.series(name)[1])
    ]
    rows = [(name, number(run.first(name)), number(run.last(name))) for name in names]
    if not rows:
        return ""
    header = ("measured on rollouts", "first update", "last update")
    return f"## Training\n\n{_table(header, rows)}\n\nEntropy is in nats, over the full vocabulary."


def _held_out(run: Run) -> str:
    names = [name for name in run.columns if name.startswith("eval/")]
    updates = sorted({float(update) for name in names for update in run.series(name)[0]})
    if not updates:
        return "## Held-out results\n\nNothing was evaluated."
    shown = [updates[0], updates[-1]] if len(updates) > 1 else updates
    rows, sizes = [], []
    for name in names:
        held_out, _, metric = name.removeprefix("eval/").partition("/")
        if re.fullmatch(r"pass@\d+", metric) or metric in _HELD_OUT:
            rows.append((held_out, metric, *(_measured(run, name, update) for update in shown)))
        if metric == "prompts":
            samples = run.last(f"eval/{held_out}/samples")
            sizes.append(f"{held_out}: {run.last(name):.0f} prompts x {samples:.0f} samples")
    header = ("set", "measure", *(f"update {update:.0f}" for update in shown))
    sampling = run.recipe.get("evaluation") or {}
    how = f"temperature {sampling.get('temperature')}, top-p {sampling.get('top_p')}"
    return (
        f"## Held-out results\n\n{_table(header, rows)}\n\n{'; '.join(sizes)}; {how}. In brackets: 95 % interval, "
        "bootstrap over prompts. Update 0 is the model before training."
    )


def _measured(run: Run, name: str, update: float) -> str:
    known = {float(at): float(value) for at, value in zip(*run.series(name), strict=True)}
    if update not in known:
        return ""
    ends = [dict(zip(*run.series(f"{name}/{end}"), strict=True)) for end in ("low", "high")]
    interval = [number(float(end[update])) for end in ends if update in end]
    return number(known[update]) + (f" [{', '.join(interval)}]" if len(interval) == 2 else "")


def _loading(subject: Subject) -> str:
    data = subject.run.recipe["data"]
    template = data.get("template")
    asked = f"\n\nPrompts were written as\n\n{_fenced(template, 'text')}" if template else ""
    if data.get("system"):
        asked += f"\n\nunder the system message\n\n{_fenced(data['system'], 'text')}"
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({subject.address!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({subject.address!r})"
    )
    return f"## Loading it\n\n{_fenced(code, 'python')}{asked}"


def _source(recipe: dict[str, Any]) -> str:
    source = recipe.get("source")
    if not source:
        return ""
    paper, url = source.get("paper"), source.get("url")
    lines = [f"[{paper}]({url})" if paper and url else str(paper or url or "")]
    if source.get("repository"):
        commit = f" at `{source['commit']}`" if source.get("commit") else ""
        lines.append(f"Code: `{source['repository']}`{commit}")
    text = "\n\n".join(line for line in lines if line)
    deviations = source.get("deviations") or []
    if deviations:
        text += "\n\nWhere the recipe differs:\n\n" + "\n".join(f"- {item}" for item in deviations)
    return f"## Source of the recipe\n\n{text}"


def _recipe(run: Run) -> str:
    text = (run.folder / "resolved.yaml").read_text(encoding="utf-8")
    return (
        "## Doing it again\n\n`resolved.yaml` has every value with its origin; paths in it are those of the machine "
        f"that trained.\n\n{_fenced('rlvr train resolved.yaml output=runs/again', 'bash')}\n\n<details>\n<summary>The "
        f"recipe in full</summary>\n\n{_fenced(text, 'yaml')}\n\n</details>"
    )


def _versions(folder: Path) -> str:
    path = folder / "run.json"
    if not path.is_file():
        return ""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [("python", content.get("python", "")), *content.get("versions", {}).items()]
    made = f"Trained on {content.get('created')} with {content.get('processes')} process(es)."
    return f"## Versions\n\n{made}\n\n{_table(('package', 'version'), rows)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )


def _fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _item_name(item: Any) -> str:
    return next(iter(item)) if isinstance(item, dict) else str(item)


def _plain_name(path: str) -> str:
    """Return a hub id as a link, and of a local path only its end."""
    if "/" in path and is_hub_id(path):
        return f"`{path}`"
    return f"`{Path(path).name}`"
