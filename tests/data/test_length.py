"""Long prompts are left out by the number of tokens that the model will see."""

import pytest

from rlvr.data.layout import Row
from rlvr.data.length import drop_long_prompts, prompt_lengths
from rlvr.data.source import load_rows
from rlvr.demo_base import build_tokenizer
from rlvr.recipe import DataSource


@pytest.fixture
def tokenizer():
    return build_tokenizer()  # one token a number or sign


ROWS = [{"prompt": "1+2"}, {"prompt": "1+2+3"}, {"prompt": "10+20+30+40"}]


def test_prompts_up_to_the_limit_stay(tokenizer):
    assert prompt_lengths(ROWS, tokenizer) == [3, 5, 7]
    kept, dropped = drop_long_prompts(ROWS, tokenizer, 5)
    assert kept == ROWS[:2]
    assert dropped == 1


def test_chat_messages_count_with_the_chat_template(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}={{ m.content }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    rows: list[Row] = [{"prompt": [{"role": "user", "content": "1+2"}]}, {"prompt": "1+2"}]
    assert prompt_lengths(rows, tokenizer) == [5, 3]


def test_chat_messages_without_a_chat_template_are_an_error(tokenizer):
    with pytest.raises(ValueError, match="no chat template"):
        prompt_lengths([{"prompt": [{"role": "user", "content": "1"}]}], tokenizer)


def test_no_prompt_left_is_an_error_with_the_lengths(tokenizer):
    with pytest.raises(ValueError, match=r"all 3 prompts .* 2 tokens \(shortest: 3, median: 5, "):
        drop_long_prompts(ROWS, tokenizer, 2)
    with pytest.raises(ValueError, match="no prompt fits"):
        drop_long_prompts(ROWS, tokenizer, 0)


def test_load_rows_leaves_out_long_prompts_before_the_limit_counts(tokenizer):
    source = DataSource(task="countdown", task_options={"numbers": 3}, size=50, limit=20)
    rows = load_rows(source, tokenizer=tokenizer, max_prompt_length=8)  # 3 numbers: 8 tokens
    assert len(rows) == 20
    with pytest.raises(
        ValueError, match=r"sets\[0\]\.max_prompt_length: all 50 prompts are longer than 7 tokens"
    ):
        load_rows(source, at=("evaluation", "sets", 0), tokenizer=tokenizer, max_prompt_length=7)
