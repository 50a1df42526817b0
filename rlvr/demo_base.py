"""Make the demo's base policy: `python -m rlvr.demo_base OUT`, about three minutes on one core.

A tiny Llama learns countdown (`rlvr.data.tasks.countdown`) from random demonstrations: first from
right ones, then from a mixture with sloppy ones, which show an expression for another target. The
policy knows how to calculate and is careless about it, so reinforcement has much to gain, and
there are many ways to be right. Test problems never occur among the demonstrations.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlvr.data.split import problem_split
from rlvr.data.tasks import countdown
from rlvr.rewards import countdown as verifier
from rlvr.rewards.verdict import Outcome, Sample

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TASK = countdown.Config()
SIGNS = "+-*"
HIDDEN = 32
BATCH = 128


class Phase(NamedTuple):
    """One part of the training."""

    updates: int
    learning_rate: float  # at its peak
    sloppy: float  # share of demonstrations for another target


PHASES = (Phase(6000, 1e-2, sloppy=0.0), Phase(400, 1e-3, sloppy=0.12))


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a tokenizer with one token for each number up to the largest target and each sign."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *map(str, range(TASK.max_target + 1)), *SIGNS, *",=:"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    # an unknown run of digits becomes one <unk>, never two smaller numbers
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|\D"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedModel":
    """Return a randomly initialised two-layer Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.12,  # about 1 / sqrt(hidden): the usual 0.02 is for wide models
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = True
    return model


def held_out_table() -> "np.ndarray":
    """Return, for each sorted tuple of numbers and each target, whether it is a test problem."""
    import itertools

    import numpy as np

    shape = (TASK.max_number + 1,) * TASK.numbers + (TASK.max_target + 1,)
    table = np.zeros(shape, dtype=bool)
    values = range(1, TASK.max_number + 1)
    for numbers in itertools.combinations_with_replacement(values, TASK.numbers):
        for target in range(1, TASK.max_target + 1):
            table[(*numbers, target)] = problem_split("countdown", (numbers, target)) == "test"
    return table


class Demonstrations:
    """Random problems with an expression that uses the right numbers and often the wrong signs."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> None:
        import numpy as np

        self.rng = np.random.default_rng(seed)
        self.held_out = held_out_table()
        ids: Any = tokenizer.convert_tokens_to_ids
        self.number_ids = np.array(ids([str(n) for n in range(TASK.max_target + 1)]))
        self.sign_ids = np.array(ids(list(SIGNS)))
        self.comma, self.equals, self.colon, self.eos = ids([",", "=", ":", "<eos>"])

    def sample(self, rows: int, sloppy: float) -> "np.ndarray":
        """Return token ids (rows, 4n + 2): prompt `a,b,...=target:`, expression, end.

        Args:
            rows: Number of demonstrations.
            sloppy: Share whose expression reaches another target than the prompt's.
        """
        import numpy as np

        drawn = 4 * rows  # more than enough after the targets out of range are left out
        n = TASK.numbers
        numbers = self.rng.integers(1, TASK.max_number + 1, (drawn, n))
        order = self.rng.permuted(numbers, axis=1)
        signs = self.rng.integers(0, len(SIGNS), (drawn, n - 1))
        target = _evaluate(order, signs)
        kept = np.flatnonzero((target >= 1) & (target <= TASK.max_target))
        numbers, order, signs, target = numbers[kept], order[kept], signs[kept], target[kept]
        other = self.rng.permutation(target)
        target = np.where(self.rng.random(len(target)) < sloppy, other, target)
        kept = np.flatnonzero(~self.held_out[(*np.sort(numbers, axis=1).T, target)])[:rows]
        numbers, order, signs, target = numbers[kept], order[kept], signs[kept], target[kept]
        if len(kept) < rows:
            raise ValueError(f"demonstrations: {len(kept)} of {drawn} draws were usable")

        tokens = np.empty((rows, 4 * n + 2), dtype=np.int64)
        tokens[:, 0 : 2 * n : 2] = self.number_ids[numbers]
        tokens[:, 1 : 2 * n - 1 : 2] = self.comma
        tokens[:, 2 * n - 1] = self.equals
        tokens[:, 2 * n] = self.number_ids[target]
        tokens[:, 2 * n + 1] = self.colon
        tokens[:, 2 * n + 2 :: 2] = self.number_ids[order]
        tokens[:, 2 * n + 3 : -1 : 2] = self.sign_ids[signs]
        tokens[:, -1] = self.eos
        return tokens


def _evaluate(numbers: "np.ndarray", signs: "np.ndarray") -> "np.ndarray":
    """Return the value of each row; the array form of `countdown.evaluate_chain`."""
    import numpy as np

    total, term = np.zeros(len(numbers), dtype=np.int64), numbers[:, 0].copy()
    for i in range(signs.shape[1]):
        times = signs[:, i] == SIGNS.index("*")
        number = numbers[:, i + 1]
        total = np.where(times, total, total + term)
        signed = np.where(signs[:, i] == SIGNS.index("+"), number, -number)
        term = np.where(times, term * number, signed)
    return total + term


def train(model: "PreTrainedModel", demonstrations: Demonstrations, phase: Phase) -> None:
    """Fit the completions of the demonstrations; the learning rate falls to zero as a cosine.

    Args:
        model: Changed in place.
        demonstrations: Where batches come from.
        phase: How.
    """
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    prompt = 2 * TASK.numbers + 2
    model.train()
    started = time.perf_counter()
    for update in range(phase.updates):
        warm = min(1.0, (update + 1) / 100)
        rate = phase.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * update / phase.updates))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens = torch.from_numpy(demonstrations.sample(BATCH, phase.sloppy))
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[:, prompt - 1 :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, prompt:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update % 500 == 499:
            seconds = time.perf_counter() - started
            done = f"update {update + 1}/{phase.updates}: loss {loss:.3f} nats"
            print(f"{done}, {seconds:.0f} s", flush=True)  # noqa: T201 - a script's progress


def measure(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    rows: list[dict[str, Any]],
    samples: int = 16,
) -> dict[str, float]:
    """Return pass@1, pass@`samples`, distinct right answers a problem, and entropy in nats.

    Args:
        model: On CPU.
        tokenizer: Its tokenizer.
        rows: Countdown rows.
        samples: Completions a problem at temperature 1.
    """
    import torch

    model.eval()
    encoded = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True)
    ids = encoded["input_ids"].repeat_interleave(samples, 0)
    mask = encoded["attention_mask"].repeat_interleave(samples, 0)
    generate: Any = model.generate
    with torch.no_grad():
        output = generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=2 * TASK.numbers,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
        )
        tokens = output[:, ids.shape[1] :]
        sampled = tokens != tokenizer.pad_token_id
        logits = model(input_ids=output, attention_mask=torch.cat([mask, sampled], 1)).logits
        logprobs = logits[:, ids.shape[1] - 1 : -1].log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)[sampled].mean().item()
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    right = [is_right(text, rows[i // samples]) for i, text in enumerate(texts)]
    groups = [
        {t for t, r in zip(texts[i : i + samples], right[i : i + samples], strict=True) if r}
        for i in range(0, len(texts), samples)
    ]
    return {
        "pass@1": sum(right) / len(right),
        f"pass@{samples}": sum(map(bool, groups)) / len(groups),
        "distinct_correct": sum(map(len, groups)) / len(groups),
        "entropy": entropy,
    }


def is_right(text: str, row: dict[str, Any]) -> bool:
    """Return whether a completion solves a countdown row."""
    verify = verifier.build(verifier.Config(operators=TASK.operators))
    sample = Sample(row["prompt"], text, row["answer"], row)
    return verify(sample).outcome is Outcome.CORRECT


def main() -> None:
    """Train, measure on held-out problems, save."""
    import torch
    from transformers import set_seed

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the model and its tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shorten", type=int, default=1, help="this many times fewer updates")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: the same weights on the same kind of machine
    set_seed(arguments.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    demonstrations = Demonstrations(tokenizer, arguments.seed)
    for phase in PHASES:
        updates = max(1, phase.updates // arguments.shorten)
        train(model, demonstrations, phase._replace(updates=updates))
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "model.safetensors").chmod(0o644)
    rows = countdown.generate(countdown.Config(split="test"), 200, seed=1)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"parameters": parameters} | measure(model, tokenizer, rows)))  # noqa: T201 - a script's result


if __name__ == "__main__":
    main()
