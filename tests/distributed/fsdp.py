"""One process of two: the gradient of a model that FSDP2 divides, beside that of the whole model."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[2]))  # started by its path

from rlvr.head import Head
from rlvr.logprobs import KernelOptions, add_token_forward, of_tokens

NAMES = ["nucleus_entropy:0.9", "sum_p2"]


def model(*, tied: bool) -> Any:
    """Return a tiny model that teaches tokens to score themselves."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=301,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    made = AutoModelForCausalLM.from_config(config).double()
    add_token_forward(made)
    return made


def loss(made: Any, tokens: Tensor) -> Tensor:
    """Return a loss of log-probs, entropies and a statistic."""

    def score(hidden: Tensor, head: Head) -> dict[str, Tensor]:
        found = of_tokens(
            hidden[:, :-1],
            head,
            tokens[:, 1:],
            tokens[:, 1:] > 20,
            NAMES,
            options=KernelOptions("chunked"),
        )
        return {"logprobs": found.logprobs, "entropies": found.entropies, **found.statistics}

    found = made(input_ids=tokens, attention_mask=torch.ones_like(tokens), score=score)
    return sum((k + 1) * value.sum() for k, value in enumerate(found.values()))  # type: ignore[return-value]


def main() -> None:
    """Say by how much the two differ, and how much of the head this process has."""
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randint(1, 301, (3, 7), generator=generator) for _ in range(2)]
    for tied in (False, True):
        whole, divided = model(tied=tied), model(tied=tied)
        for layer in divided.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(divided, mesh=mesh)
        loss(divided, parts[get_rank()]).backward()
        sum(loss(whole, part) for part in parts).backward()
        pairs = list(zip(divided.parameters(), whole.parameters(), strict=True))
        # gradients are averaged over processes
        worst = max(float((2 * a.grad.full_tensor() - b.grad).abs().max()) for a, b in pairs)
        here = divided.lm_head.weight.to_local().shape[0]
        print(f"tied {tied}: {worst:.1e} apart, {here} of 301 rows here", flush=True)  # noqa: T201
    destroy_process_group()


if __name__ == "__main__":
    main()
