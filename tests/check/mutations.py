"""Recipes with one fault each: made from the shipped recipes and the schema, by rule.

A mutant is a whole recipe file in which one key, name or value was spoilt, and what a user has to be told of it. Its
policy and its run folder are the placeholders POLICY_FOLDER and RUN_FOLDER.
"""

import copy
import importlib
import importlib.util
import json
import math
import random
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from rlvr import catalog
from rlvr.data.task import task_names
from rlvr.recipe import Recipe, load_recipe
from rlvr.recipe_yaml import dump_yaml
from rlvr.rewards.common import Common

Keys = tuple[str | int, ...]
Values = dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    """A spoilt recipe and what is to be said of it."""

    what: str
    text: str
    """Of the file."""
    key: str
    """Dotted, named by the message."""
    line: int | None = None
    """In which the fault stands; None: a value that is missing."""
    original: str | None = None
    """What the message has to suggest."""
    said: tuple[str, ...] = ()
    """Further parts of the message."""
    processes: int = 1

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Chance:
    """Which of all faults are made: a share of them, by a seed."""

    rng: random.Random
    share: float = 1.0

    def skips(self) -> bool:
        return self.rng.random() >= self.share


def whole(name: str) -> Values:
    """Return every value of a shipped recipe."""
    recipe, _ = load_recipe(name, overrides=["model.path=POLICY_FOLDER", "output=RUN_FOLDER"])
    values = recipe.model_dump(mode="json")
    return {key: value for key, value in values.items() if key != "source"}


def dotted(path: Keys) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")


def written(values: Values) -> str:
    return dump_yaml(values, lambda _: "")


def line_of(text: str, path: Keys) -> int:
    """Return the line of a key, by PyYAML's own marks."""
    node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    line = 0
    for part in path:
        if isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
        else:
            [(key, node)] = [pair for pair in node.value if pair[0].value == part]
            line = key.start_mark.line
    return line + 1


def at(values: Any, path: Keys) -> Any:
    for part in path:
        values = values[part]
    return values


def with_value(values: Values, path: Keys, value: Any) -> Values:
    changed = copy.deepcopy(values)
    parent: Any = changed
    for part in path[:-1]:
        if isinstance(parent, dict) and parent.get(part) is None:
            parent[part] = {}
        parent = parent[part]
    parent[path[-1]] = value
    return changed


def renamed(values: Values, path: Keys, name: str) -> Values:
    """Return the values with one key under another name, in its place."""
    changed = copy.deepcopy(values)
    parent = at(changed, path[:-1])
    pairs = [(name if key == path[-1] else key, value) for key, value in parent.items()]
    parent.clear()
    parent.update(pairs)
    return changed


# typos

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def typos(word: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield every kind of slip at one place of a word each, as (kind, result)."""
    places = list(range(len(word)))
    rng.shuffle(places)
    for place in places[:1] if len(word) > 2 else []:
        yield "deletion", word[:place] + word[place + 1 :]
    swaps = [i for i in places if i + 1 < len(word) and word[i] != word[i + 1]]
    for place in swaps[:1] if len(word) > 2 else []:
        yield "transposition", word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    letters = [i for i in places if word[i].isalpha()]
    for place in letters[:1] if len(word) > 2 else []:
        other = rng.choice([letter for letter in LETTERS if letter != word[place].lower()])
        yield "substitution", word[:place] + other + word[place + 1 :]
    for place in places[:1]:
        yield "doubling", word[:place] + word[place] + word[place:]
    yield "case", rng.choice([word.upper(), word.capitalize()])
    if "_" in word:
        yield "hyphen", word.replace("_", "-")
        yield "joined", word.replace("_", "")
        head, *rest = word.split("_")
        yield "camel", head + "".join(part.capitalize() for part in rest)


def slips(word: str, others: typing.Iterable[str], chance: Chance) -> list[tuple[str, str]]:
    """Return typos of a word that are none of the words that may stand in its place."""
    return [
        (kind, text)
        for kind, text in typos(word, chance.rng)
        if text not in others and text != word and not chance.skips()
    ]


def key_typos(values: Values, source: str, chance: Chance) -> Iterator[Mutant]:
    """Yield a misspelt key of every place of a recipe where keys are fixed."""
    for path in key_places(values):
        siblings = known_keys(path[:-1])
        for kind, text in slips(str(path[-1]), siblings, chance):
            changed = renamed(values, path, text)
            file, key = written(changed), (*path[:-1], text)
            what = f"{source}: {kind} {dotted(key)}"
            yield Mutant(what, file, dotted(key), line_of(file, key), str(path[-1]))


def key_places(values: Any, path: Keys = ()) -> Iterator[Keys]:
    """Yield the paths of all keys that the schema or a method fixes, the empty section's not."""
    items = enumerate(values) if isinstance(values, list) else values.items()
    for key, value in items:
        here = (*path, key)
        is_option_list = len(path) >= 2 and path[-1] in ("columns", "task_options")
        if isinstance(key, str) and not is_option_list and not is_name(here):
            yield here
        if isinstance(value, dict | list) and key not in ("columns", "deviations"):
            yield from key_places(value, here)


def is_name(path: Keys) -> bool:
    """Return whether a key is the name of an item rather than a key of the schema."""
    in_list = len(path) >= 2 and isinstance(path[-2], int) and "sets" not in path[-3:]
    chosen = path[:2] in [("algorithm", k) for k in ("surrogate", "aggregate", "advantage")]
    return in_list or (chosen and len(path) == 3)


def known_keys(path: Keys) -> set[str]:
    """Return the keys that may stand at a path of the schema; all there are where that is open."""
    if path == ("training",):
        return {*Recipe.model_fields["training"].annotation.model_fields, *catalog.trl_fields()}
    model: Any = Recipe
    for part in path:
        if isinstance(part, str):
            field = model.model_fields.get(part)
            if field is None:
                return set()
            model = next((m for m in models_in(field.annotation)), None)
            if model is None or model.__name__ == "NamedItem":
                return set()
    return set(model.model_fields)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


NAMES = {
    ("entropy", 0): "entropy",
    ("rewards", "verifiers", 0): "rewards",
    ("algorithm", "surrogate"): "surrogate",
    ("algorithm", "aggregate"): "aggregate",
    ("algorithm", "advantage"): "advantage",
    ("data", "task"): "task",
}


def name_typos(values: Values, chance: Chance) -> Iterator[Mutant]:
    """Yield misspelt names of every control, verifier, surrogate, aggregate, advantage and task."""
    for path, folder in NAMES.items():
        if folder == "task":
            known = task_names()
        elif folder in ("entropy", "rewards"):
            known = list(catalog.methods(folder))
        else:
            known = list(catalog.functions(folder))
        for name in known:
            for kind, text in slips(name, known, chance):
                value = [text] if isinstance(path[-1], int) else text
                place = path[:-1] if isinstance(path[-1], int) else path
                file = written(with_value(values, place, value))
                what = f"{kind} of {folder} {name}: {text}"
                yield Mutant(what, file, dotted(path), line_of(file, path), name)


# options of methods

OPTION_PLACES = {
    "entropy": ("entropy", 0),
    "rewards": ("rewards", "verifiers", 0),
    "data.tasks": ("data", "task_options"),
}


def option_mutants(values: Values, chance: Chance) -> Iterator[Mutant]:
    """Yield misspelt and wrong options of every control, verifier and task."""
    for folder, place in OPTION_PLACES.items():
        names = task_names() if folder == "data.tasks" else list(catalog.methods(folder))
        for name in names:
            module = importlib.import_module(f"rlvr.{folder}.{name}")
            needed = getattr(module, "NEEDS", (None,))[0]
            if needed and importlib.util.find_spec(needed) is None:
                continue
            for option, field in module.Config.model_fields.items():
                if folder == "data.tasks" and option == "split":
                    continue
                known = {*module.Config.model_fields, *Common.model_fields}
                value = (
                    field.get_default(call_default_factory=True) if not field.is_required() else 1
                )
                value = json.loads(json.dumps(value, default=lambda _: 1))
                for kind, text in slips(option, known, chance):
                    yield _option(values, name, place, text, value, kind, option)
                for kind, wrong in WRONG.items():
                    taken = takes(field.annotation, list(field.metadata), wrong)
                    if not taken and not chance.skips():
                        yield _option(values, name, place, option, wrong, kind, None)


def _option(
    values: Values, name: str, place: Keys, key: str, value: Any, kind: str, original: str | None
) -> Mutant:
    path = (*place, name, key) if isinstance(place[-1], int) else (*place, key)
    if isinstance(place[-1], int):
        changed = with_value(values, place[:-1], [{name: {key: value}}])
    else:
        changed = with_value(with_value(values, ("data", "task"), name), place, {key: value})
    file = written(changed)
    return Mutant(f"{kind} of {name}: {key}", file, dotted(path), line_of(file, path), original)


# wrong values

WRONG = {
    "text": "many",
    "quoted": "8",
    "list": [3, 4],
    "map": {"of": 1},
    "true": True,
    "null": None,
    "negative": -1,
    "zero": 0,
    "fraction": 2.5,
    "huge": 10**30,
    "nan": math.nan,
    "inf": math.inf,
}


def wrong_values(values: Values, source: str, chance: Chance) -> Iterator[Mutant]:
    """Yield, for every key of the schema, values of every kind that it does not take."""
    for path, annotation, metadata in leaves(Recipe):
        for kind, value in WRONG.items():
            if not takes(annotation, metadata, value) and not chance.skips():
                file = written(with_value(values, path, value))
                # of a section it is the key that does not belong there
                inner = [m.__name__ for m in models_in(annotation)]
                is_list = typing.get_origin(annotation) is tuple
                is_section = kind == "map" and inner and not is_list and "NamedItem" not in inner
                place = (*path, "of") if is_section else path
                what = f"{source}: {kind} for {dotted(path)}"
                yield Mutant(what, file, dotted(place), line_of(file, place))


def leaves(model: type[BaseModel], path: Keys = ()) -> Iterator[tuple[Keys, Any, list[Any]]]:
    """Yield (path, type, constraints) of every key of the schema, sections too."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        yield here, field.annotation, list(field.metadata)
        inner = [m for m in models_in(field.annotation) if m.__name__ != "NamedItem"]
        for part in inner[:1]:
            is_list = typing.get_origin(field.annotation) is tuple
            yield from leaves(part, (*here, 0) if is_list else here)


def takes(annotation: Any, metadata: list[Any], value: Any) -> bool:
    """Return whether a value is of a type and in the range that a field names."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(takes(part, metadata, value) for part in arguments)
    if origin is typing.Annotated:
        return takes(arguments[0], [*metadata, *arguments[1:]], value)
    if origin is typing.Literal:
        return any(value is choice or value == choice for choice in arguments) and value is not True
    if origin is tuple:
        return isinstance(value, list) and all(takes(arguments[0], [], item) for item in value)
    if origin is dict or models_of(annotation):
        return isinstance(value, dict) and not models_of(annotation)
    if annotation is typing.Any:
        return True
    if annotation in (int, float):
        fits = isinstance(value, int | float if annotation is float else int)
        return fits and not isinstance(value, bool) and in_range(value, metadata)
    if annotation is Path:
        return isinstance(value, str)
    return isinstance(value, annotation)


def models_of(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def in_range(value: float, metadata: list[Any]) -> bool:
    limits = [inner for item in metadata for inner in getattr(item, "metadata", None) or [item]]
    tests = {
        "ge": lambda limit: value >= limit,
        "gt": lambda limit: value > limit,
        "le": lambda limit: value <= limit,
        "lt": lambda limit: value < limit,
    }
    if not -math.inf < value < math.inf and not any(
        getattr(item, "allow_inf_nan", False) for item in limits
    ):
        return False
    return value == value and all(
        test(getattr(item, name))
        for item in limits
        for name, test in tests.items()
        if getattr(item, name, None) is not None
    )


# names of neighbours

NEIGHBOURS = {
    ("rollout", "num_generations"): "rollout.group_size",
    ("rollout", "n"): "rollout.group_size",
    ("rollout", "max_response_length"): "rollout.max_completion_length",
    ("rollout", "max_new_tokens"): "rollout.max_completion_length",
    ("rollout", "gpu_memory_utilization"): "training.vllm_gpu_memory_utilization",
    ("data", "train_files"): "data.path",
    ("data", "train_batch_size"): "rollout.prompts_per_rollout",
    ("data", "max_response_length"): "rollout.max_completion_length",
    ("algorithm", "beta"): "algorithm.kl_coef",
    ("algorithm", "epsilon"): "algorithm.clip_low",
    ("algorithm", "epsilon_high"): "algorithm.clip_high",
    ("algorithm", "kl_loss_coef"): "algorithm.kl_coef",
    ("algorithm", "clip_ratio"): "algorithm.clip_low",
    ("algorithm", "adv_estimator"): "algorithm.advantage",
    ("algorithm", "loss_agg_mode"): "algorithm.aggregate",
    ("algorithm", "entropy_coeff"): "entropy_bonus",
    ("algorithm", "group_size"): "rollout.group_size",
    ("algorithm", "learning_rate"): "training.learning_rate",
    ("training", "num_generations"): "rollout.group_size",
    ("training", "beta"): "algorithm.kl_coef",
    ("training", "epsilon"): "algorithm.clip_low",
    ("training", "loss_type"): "algorithm.surrogate",
    ("training", "max_steps"): "training.updates",
    ("training", "num_train_epochs"): "training.epochs",
    ("training", "per_device_train_batch_size"): "training.micro_batch_size",
    ("training", "gradient_accumulation_steps"): "training.micro_batch_size",
    ("training", "ppo_mini_batch_size"): "rollout.prompts_per_update",
    ("training", "lr"): "training.learning_rate",
    ("training", "total_epochs"): "training.epochs",
    ("training", "bf16"): "model.dtype",
    ("training", "output_dir"): "output",
    ("training", "temperature"): "rollout.temperature",
    ("training", "logging_steps"): "monitor",
    ("training", "num_generation"): "rollout.group_size",
    ("model", "torch_dtype"): "model.dtype",
    ("model", "lora_rank"): "model.lora.rank",
    ("model", "gradient_checkpointing"): "training.gradient_checkpointing",
    ("evaluation", "test_freq"): "evaluation.every",
    ("monitor", "logger"): "monitor.report_to",
    ("actor_rollout_ref",): "rollout",
    ("reward_model",): "rewards.verifiers",
    ("trainer",): "training",
    ("warmup_steps",): "training.warmup_steps",
    ("group_size",): "rollout.group_size",
}
"""Key of another library, or of another section, and what has to be named instead."""


def neighbours(values: Values) -> Iterator[Mutant]:
    for path, instead in NEIGHBOURS.items():
        file = written(with_value(values, path, 1))
        what = f"another's {dotted(path)}"
        yield Mutant(what, file, dotted(path), line_of(file, path), said=(instead,))


# batch algebra

ALGEBRA = [
    # processes, prompts per rollout, prompts per update, group size, key, what works
    (1, 10, 4, 4, "rollout.prompts_per_rollout", "8 or 12"),
    (1, 8, 3, 4, "rollout.prompts_per_rollout", "6 or 9"),
    (1, 8, 16, 4, "rollout.prompts_per_rollout", "16"),
    (1, 8, 4, 1, "rollout.group_size", "2 or more"),
    (2, 7, 7, 3, "rollout.prompts_per_update", "6 or 8"),
    (3, 8, 4, 2, "rollout.prompts_per_update", "2 or 4 processes"),
    (3, 512, 32, 8, "rollout.prompts_per_update", "30 or 33"),
    (8, 8, 4, 3, "rollout.prompts_per_update", "6 or 12 processes"),
    (8, 24, 3, 6, "rollout.prompts_per_update", "4"),
]


def algebra(values: Values) -> Iterator[Mutant]:
    keys = ("prompts_per_rollout", "prompts_per_update", "group_size")
    for processes, *numbers, key, fits in ALGEBRA:
        changed = values
        for name, number in zip(keys, numbers, strict=True):
            changed = with_value(changed, ("rollout", name), number)
        file = written(changed)
        line = line_of(file, tuple(key.split(".")))
        what = f"{numbers} on {processes}"
        yield Mutant(what, file, key, line, said=(fits,), processes=processes)


# structure

STRUCTURE = [
    ("rollout: 5", "rollout", "a section with the keys"),
    ("rollout: [group_size, 8]", "rollout", "a section with the keys"),
    ("rollout:", "rollout", "a section with the keys"),
    ("algorithm: clipped", "algorithm", "a section with the keys"),
    ("entropy: kl_cov", "entropy", "a list"),
    ("entropy: {kl_cov: {fraction: 0.1}}", "entropy", "a list"),
    ("entropy: [5]", "entropy[0]", "NAME or {NAME: {option: value}}"),
    ("entropy: [null]", "entropy[0]", "NAME or {NAME: {option: value}}"),
    ("entropy: [{kl_cov: 5}]", "entropy[0]", "a mapping"),
    ("entropy: [{kl_cov: {}, steer: {}}]", "entropy[0]", "each name a dash"),
    ("entropy: [{kl_cov: null, fraction: 0.1}]", "entropy[0]", "indent its options"),
    ("entropy: [kl_cov, kl_cov]", "entropy", "keep one"),
    ("algorithm: {surrogate: [clipped]}", "algorithm.surrogate", "NAME or {NAME: {option: value}}"),
    ("rollout.group_size: 8", "rollout.group_size", "rollout: {group_size: ...}"),
    ("group_size: 8", "group_size", "rollout.group_size"),
    ("monitor: {evaluation: {every: 5}}", "monitor.evaluation", "Did you mean 'evaluation'?"),
    ("evaluation: {sets: {name: a}}", "evaluation.sets", "a list"),
    ("evaluation: {sets: [{task: countdown}]}", "evaluation.sets[0].name", "is missing"),
    ("rewards: {verifiers: countdown}", "rewards.verifiers", "a list"),
    ("model: {dtype: bfloat16}", "model.path", "is missing"),
    ("output: ''", "output", "a run needs one of its own"),
]


def structure() -> Iterator[Mutant]:
    """Yield sections that are none, and keys at a wrong depth."""
    head = (
        "model: {path: POLICY_FOLDER}\ndata: {task: countdown, size: 64}\ntraining: {updates: 2}\n"
    )
    for text, key, said in STRUCTURE:
        lines = [line for line in head.splitlines() if line.split(":")[0] != text.split(":")[0]]
        lines += [] if text.startswith("output") else ["output: RUN_FOLDER"]
        file = "\n".join([*lines, text]) + "\n"
        yield Mutant(text, file, key, len(lines) + 1, said=(said,))
