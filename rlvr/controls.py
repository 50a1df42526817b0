"""The entropy controls of a recipe, built."""

import importlib
from typing import Any

from rlvr.entropy.control import Chain, build_control, chain
from rlvr.recipe import NamedItem, Recipe


def options_of(item: NamedItem, recipe: Recipe) -> dict[str, Any]:
    """Return the options of a control: those it is given, and what `rollout` says for a field of the same name."""
    config = importlib.import_module(f"rlvr.entropy.{item.name}").Config
    shared = config.model_fields.keys() & type(recipe.rollout).model_fields.keys()
    return {name: getattr(recipe.rollout, name) for name in sorted(shared)} | item.options


def build_chain(recipe: Recipe) -> Chain:
    """Return the recipe's controls in their order.

    Raises:
        ValueError: If they cannot be combined.
    """
    return chain(*(build_control(item.name, options_of(item, recipe)) for item in recipe.entropy))
