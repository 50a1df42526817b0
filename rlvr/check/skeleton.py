"""A recipe's model without its weights: what transformers and peft refuse of it is said before any are loaded."""

from rlvr.assemble import lora_config
from rlvr.inputs import load_config
from rlvr.recipe import Recipe
from rlvr.recipe_error import refuse, show


def check_skeleton(recipe: Recipe) -> None:
    """Build the model on torch's meta device, where tensors have no values.

    Args:
        recipe: Has passed its checks; the model's configuration can be had.

    Raises:
        RecipeError: If there is no such attention, or an adapter finds no module of its names.
    """
    model = recipe.model
    if model.attention is None and model.lora is None:
        return
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(recipe)
    with torch.device("meta"):
        try:
            built = AutoModelForCausalLM.from_config(
                config,
                attn_implementation=model.attention,
                trust_remote_code=model.trust_remote_code,
            )
        except (ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            refuse(("model", "attention"), f"is {show(model.attention)}: {reason:.300}")
        if model.lora is not None:
            from peft import get_peft_model

            try:
                get_peft_model(built, lora_config(recipe))
            except ValueError as error:
                linear = (
                    name for name, m in built.named_modules() if isinstance(m, torch.nn.Linear)
                )
                modules = sorted({name.rpartition(".")[2] for name in linear})
                text = f"is {show(model.lora.target_modules)}: {error}; modules of this model are {', '.join(modules)}"
                refuse(("model", "lora", "target_modules"), text[:600])
