"""The DAPO-Math recipe on the real data sets, for three updates of a model made here: only sizes are changed.

The data are the parquet files of zz-haooo/STEER (`datasets/`), looked for in $RLVR_SHARED_DATA/math, then in
../shared/data/math beside the repository.
"""

import json
import os
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from tests.run import launch

SHARED = Path(os.environ.get("RLVR_SHARED_DATA", launch.ROOT.parent / "shared" / "data"))
MATH = SHARED / "math"
FILES = {"MATH-500": "math500", "AIME24": "aime24", "AIME25": "aime25"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MATH / "DAPO-Math-17k.parquet").is_file(),
        reason=f"no DAPO-Math-17k.parquet in {MATH}; set RLVR_SHARED_DATA",
    ),
]

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path) -> Path:
    """Save a Qwen3 with random weights and one token for each byte, and two for whole answers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *special]
    model = models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[])
    raw = Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    # so that random completions have answers to verify at times
    tokenizer.add_tokens(["\\boxed{2}", "\\boxed{3}"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    policy = Qwen3ForCausalLM(config)
    assert 1e6 < policy.num_parameters() < 2e6
    policy.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    output = folder / "run"
    sets = [f"evaluation.sets.{name}.path={MATH / file}.parquet" for name, file in FILES.items()]
    started = time.monotonic()
    result = launch.command(
        "train",
        "dapo_math",
        f"output={output}",
        f"model.path={make_model(folder / 'model')}",
        "model.dtype=float32",
        "data.max_prompt_length=400",
        f"data.path={MATH / 'DAPO-Math-17k.parquet'}",
        "rollout.prompts_per_rollout=8",
        "rollout.prompts_per_update=4",
        "rollout.group_size=4",
        "rollout.max_completion_length=48",
        "training.epochs=null",
        "training.updates=3",
        "training.device=cpu",
        "training.save_every=2",
        "evaluation.every=2",
        "evaluation.samples=2",
        "evaluation.k=[1, 2]",
        "evaluation.batch_size=8",
        *sets,
        *(f"evaluation.sets.{name}.limit=4" for name in FILES),
    )
    assert result.code == 0, result.err
    print(f"three updates, three evaluations and loading: {time.monotonic() - started:.0f} s")  # noqa: T201
    return output


@pytest.fixture(scope="module")
def rows(run):
    return launch.rows(run)


def test_every_completion_is_judged_and_none_is_lost(run, rows):
    for row in rows[1:]:
        judged = sum(row[f"verdict/{outcome}"] for outcome in ("correct", "wrong", "unparsable"))
        assert judged == pytest.approx(1)
        assert row["verdict/timeout"] == row["verdict/crashed"] == row["verdict/skipped"] == 0
        assert row["verdict/unparsable"] > 0.3  # random bytes
        assert row["verdict/wrong"] > 0  # a wrong answer among them
        assert row["reward"] == row["verdict/correct"]
    for update in (1, 3):
        path = run / f"completions/update_{update:05d}.parquet"
        written = pyarrow.parquet.read_table(path).to_pylist()
        assert len(written) == 32
        assert {item["task"] for item in written} == {"math_dapo"}
        assert all(item["answer"] for item in written)
        prompts = {item["prompt"] for item in written}
        assert len(prompts) == 8
        for prompt in prompts:
            [message] = json.loads(prompt)
            assert message["role"] == "user"
            assert "\\boxed" in message["content"]


def test_the_updates_are_those_of_the_recipe(rows):
    assert [row["update"] for row in rows] == [0, 1, 2, 3]
    assert [row["learning_rate"] for row in rows[1:]] == [1e-6] * 3
    for row in rows[1:]:
        assert row["length/max"] <= 48
        # a model that knows nothing: close to the logarithm of the vocabulary
        assert 5.0 < row["entropy"] < 5.56


def test_the_held_out_sets_are_measured_at_the_start_in_between_and_at_the_end(rows):
    for row in (rows[0], rows[2], rows[3]):
        for name in FILES:
            assert row[f"eval/{name}/prompts"] + row[f"eval/{name}/left_out"] >= 4
            assert row[f"eval/{name}/samples"] == 2
            assert 0 <= row[f"eval/{name}/pass@1"] <= row[f"eval/{name}/pass@2"] <= 1
            assert 5.0 < row[f"eval/{name}/entropy"] < 5.56
    assert not any(name.startswith("eval/") for name in rows[1])


def test_the_run_leaves_a_checkpoint_and_a_model(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert (run / "checkpoints/checkpoint-2/trainer_state.json").is_file()
    assert AutoModelForCausalLM.from_pretrained(run / "final").config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(run / "final").chat_template == TEMPLATE
