"""What `benchmarks.trainer` trains: the demo, and a larger policy with random weights.

The random policy is a Llama of 256 hidden units, 4 layers and 8,192 words. One word in 64 ends a completion, so lengths are
geometric, up to 128 tokens; prompts have 8 to 32. Its reward is a function of a file, which rlvr runs in worker processes;
the demo's verifier is pure code of bounded time, which rlvr runs in its own.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlvr.compose import Origins
from rlvr.recipe import Recipe, load_recipe
from rlvr.recipe_yaml import dump_yaml
from rlvr.rewards.verdict import Sample

Reward = Callable[..., list[float]]
QUICK_ROLLOUT = {"prompts_per_rollout": 8, "prompts_per_update": 4, "group_size": 4}


@dataclass(frozen=True)
class Case:
    """A recipe, and how the peer judges its completions."""

    name: str
    recipe: str
    """A shipped one, or a file."""
    options: tuple[str, ...]
    """Overrides of the recipe, for both sides."""
    reward: str
    """Of `REWARDS`, for the peer."""
    updates: int
    """Measured, where the command says nothing."""


@dataclass(frozen=True)
class Job:
    """What a process does."""

    part: Literal["sample", "gradient", "updates", "training", "reward"]
    side: Literal["rlvr", "TRL"]
    recipe: str
    options: tuple[str, ...]
    """Overrides of the recipe."""
    reward: str
    """Of `REWARDS`, for the peer."""
    folder: str
    """For what is written."""
    updates: int
    """Measured; whole rollouts."""
    warm: int = 0
    """Updates before; whole rollouts."""
    micro_batch_size: int | None = None
    """Of TRL; None: the recipe's."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    seed: int = 42
    given: str | None = None
    """File of a rollout to train on (`sample`)."""
    idle: float = 0.0
    """Share of its groups without advantage."""
    every: int = 0
    """Updates between two looks at held-out problems."""
    samples: int = 16
    """Completions of a held-out problem."""

    def load(self) -> tuple[Recipe, Origins]:
        """Return the recipe."""
        own = (
            f"training.updates={self.warm + self.updates}",
            f"training.seed={self.seed}",
            f"training.device={self.device}",
            f"output={Path(self.folder) / 'run'}",
        )
        return load_recipe(self.recipe, overrides=[*self.options, *own])


@dataclass(frozen=True)
class Size:
    """Of the random policy."""

    hidden: int = 256
    layers: int = 4
    words: int = 8192
    length: int = 128
    """Tokens of a completion, at most."""
    ends: int = 128
    """Words that end one."""


def demo(*, quick: bool) -> Case:
    """Return the demo without its evaluations; `quick`: at a size of seconds."""
    options = ["evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false"]
    if quick:
        options += [f"rollout.{key}={value}" for key, value in QUICK_ROLLOUT.items()]
        options += ["data.size=64", "training.micro_batch_size=16"]
    return Case("demo", "demo", tuple(options), "countdown", updates=4 if quick else 80)


def random_policy(folder: Path, *, quick: bool) -> Case:
    """Return a larger case, whose model, data and recipe are written to the folder."""
    size = Size(hidden=32, layers=2, words=256, length=16, ends=16) if quick else Size()
    rollout = {"prompts_per_rollout": 10, "prompts_per_update": 5, "group_size": 8}
    _write_model(folder / "policy", size)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in _rows(size)))
    reward = Path(__file__).with_name("trainer_reward.py")
    recipe = {
        "model": {"path": str(folder / "policy"), "dtype": "float32"},
        "data": {"path": str(rows)},
        "rewards": {"verifiers": [f"{reward}:reward"]},
        "rollout": {
            **(QUICK_ROLLOUT if quick else rollout),
            "batch_size": 80,
            "max_completion_length": size.length,
        },
        "algorithm": {"clip_low": 0.2, "clip_high": 0.2},
        "training": {
            "updates": 2,
            "micro_batch_size": 8 if quick else 10,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
        },
        "evaluation": {"at_end": False},
    }
    path = folder / "random.yaml"
    path.write_text(dump_yaml(recipe, lambda _: ""))
    return Case("random", str(path), (), "first_word", updates=4 if quick else 8)


def _write_model(folder: Path, size: Size) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers import PreTrainedTokenizerFast as Fast

    words = ["<pad>", "<eos>", *(f"w{number}" for number in range(2, size.words))]
    table = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    Fast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.words,
            hidden_size=size.hidden,
            intermediate_size=3 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            max_position_embeddings=512,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )
    ends = list(range(1, size.words, size.words // size.ends))
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=ends, pad_token_id=0, bos_token_id=None
    )
    model.save_pretrained(folder)


def _rows(size: Size) -> list[dict[str, Any]]:
    """Return 512 prompts of random words, 8 to 32 each."""
    chance = random.Random(0)
    drawn = [
        " ".join(f"w{chance.randrange(2, size.words)}" for _ in range(chance.randint(8, 32)))
        for _ in range(512)
    ]
    return [{"prompt": prompt} for prompt in drawn]


def _countdown() -> Reward:
    from rlvr.rewards import countdown
    from rlvr.rewards.verdict import Outcome

    verify = countdown.build(countdown.Config())

    def reward(
        completions: list[str], numbers: list[list[int]], target: list[int], **_: Any
    ) -> list[float]:
        samples = (
            Sample("", text, None, {"numbers": given, "target": wanted})
            for text, given, wanted in zip(completions, numbers, target, strict=True)
        )
        return [float(verify(sample).outcome is Outcome.CORRECT) for sample in samples]

    return reward


def _first_word() -> Reward:
    from benchmarks.trainer_reward import reward as of_sample

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(of_sample(Sample("", text, None, {}))) for text in completions]

    return reward


REWARDS: dict[str, Callable[[], Reward]] = {"countdown": _countdown, "first_word": _first_word}
"""As TRL calls them: the recipe's own verifier, in process, with nothing around it."""
