"""Which methods are replayed, and with which options."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlvr.catalog import methods
from rlvr.compose import SHIPPED, shipped_recipes
from rlvr.entropy.control import Chain
from rlvr.recipe import Item, NamedItem, Recipe
from rlvr.recipe_yaml import parse_value, read_yaml
from rlvr.suggest import unknown_name

PLAIN = "grpo"
"""Name of the run's loss without a control, to which the others are compared."""


@dataclass(frozen=True)
class Candidate:
    """What is replayed: controls on top of the run's loss."""

    name: str
    chain: Chain
    options: dict[str, dict[str, Any]]
    """Control -> its options, those of `rollout` included."""


def candidates(recipe: Recipe, asked: str | None = None) -> tuple[list[Candidate], dict[str, str]]:
    """Return what to replay, without plain GRPO, and why others of all cannot be.

    Without options a control has those of the run if the run uses it, else those of its shipped recipe.

    Args:
        recipe: Of the run.
        asked: `steer,kl_cov`, or a list as recipes have it, `[steer, {kl_cov: {fraction: 0.1}}]`; a list in it is a
            composition, `[[steer, dph]]`. None: every control there is, then the run's own composition.

    Raises:
        ValueError: For what is no list, an unknown control, or options that it does not have.
    """
    if asked is None:
        groups = [[NamedItem(name=name)] for name in methods("entropy")]
        if len(recipe.entropy) > 1:
            groups.append(list(recipe.entropy))
    else:
        groups = _parse(asked)
    own = {item.name: item for item in recipe.entropy}
    found: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    for group in groups:
        items = [_with_options(item, own) for item in group]
        try:
            made = _build(recipe, items)
        except ValueError as error:
            if asked is not None:
                raise
            left_out[" + ".join(item.name for item in items)] = str(error)
            continue
        name, number = made.name, 1
        while made.name in found:  # the same control with other options
            number += 1
            made = Candidate(f"{name} {number}", made.chain, made.options)
        found[made.name] = made
    return list(found.values()), left_out


def _parse(asked: str) -> list[list[NamedItem]]:
    given = parse_value(asked) if asked.lstrip().startswith("[") else asked.split(",")
    entries = [entry.strip() if isinstance(entry, str) else entry for entry in given]
    adapter = TypeAdapter[NamedItem](Item)
    groups = []
    for entry in entries:
        parts = entry if isinstance(entry, list) else [entry]
        try:
            groups.append([adapter.validate_python(part) for part in parts])
        except ValidationError as error:
            raise ValueError(
                f"--methods: {entry!r} is no control ({error.errors()[0]['msg']}); give names, steer,kl_cov, or a list "
                "as recipes have it: '[steer, {kl_cov: {fraction: 0.1}}]'"
            ) from None
    for group in groups:
        for item in group:
            if item.name not in methods("entropy"):
                known = list(methods("entropy"))
                raise ValueError(f"--methods: {unknown_name('entropy control', item.name, known)}")
    if not any(groups):
        raise ValueError("--methods is empty; name a control, or leave the option out for all")
    return groups


def _with_options(item: NamedItem, own: dict[str, NamedItem]) -> NamedItem:
    if item.options:
        return item
    return own.get(item.name) or NamedItem(name=item.name, options=shipped_options(item.name))


def shipped_options(name: str) -> dict[str, Any]:
    """Return the options that a shipped recipe gives a control, its own recipe first; {} if none has it."""
    for recipe in sorted(_shipped(), key=lambda recipe: recipe != name):
        if name in _shipped()[recipe]:
            return dict(_shipped()[recipe][name])
    return {}


@cache
def _shipped() -> dict[str, dict[str, dict[str, Any]]]:
    """Return recipe -> control -> options, as the shipped files have them."""
    found = {}
    for recipe in shipped_recipes():
        values, _ = read_yaml((SHIPPED / f"{recipe}.yaml").read_text(encoding="utf-8"), recipe)
        entries = [entry for entry in values.get("entropy") or [] if isinstance(entry, dict)]
        found[recipe] = {name: given or {} for entry in entries for name, given in entry.items()}
    return found


def _build(recipe: Recipe, items: Sequence[NamedItem]) -> Candidate:
    from rlvr.check.methods import check_methods
    from rlvr.controls import build_chain, options_of

    # a second pass: in a replay the policy has moved, so that methods on the ratio have something to act on
    rollout = recipe.rollout.model_copy(update={"passes": 2})
    alone = recipe.model_copy(update={"entropy": tuple(items), "rollout": rollout})
    check_methods(alone)
    options = {item.name: options_of(item, recipe) for item in items}
    return Candidate(
        " + ".join(item.name for item in items),
        build_chain(recipe.model_copy(update={"entropy": tuple(items)})),
        options,
    )
