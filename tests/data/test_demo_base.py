"""The shipped base policy is what its script makes, and fits the countdown task and its verifier."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from rlvr import demo_base
from rlvr.data.split import problem_split
from rlvr.data.tasks import countdown

BASE = Path(__file__).parents[2] / "recipes" / "demo" / "base"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE).eval()


def test_the_base_is_small():
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 200_000


def test_every_number_and_sign_is_one_token_and_text_comes_back(tokenizer):
    text = "3,5,7,12=50:7*5+3-12"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 17
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer("51")["input_ids"] == [tokenizer.unk_token_id]


def test_the_shipped_tokenizer_is_the_one_the_script_builds(tokenizer):
    assert tokenizer.get_vocab() == demo_base.build_tokenizer().get_vocab()
    assert tokenizer.padding_side == "left"
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3


def test_left_padding_does_not_change_what_is_predicted(model, tokenizer):
    encoded = tokenizer(["3,5,7,2=16:", "3,5=8:"], return_tensors="pt", padding=True)
    alone = tokenizer(["3,5=8:"], return_tensors="pt")
    positions = (encoded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(**encoded, position_ids=positions).logits[1, -1]
        torch.testing.assert_close(padded, model(**alone).logits[0, -1])


def test_the_base_is_careless_but_nearly_always_finds_an_answer_in_sixteen(model, tokenizer):
    rows = countdown.generate(countdown.Config(split="test"), 200, seed=1)
    set_seed(0)
    measured = demo_base.measure(model, tokenizer, rows)
    # five standard errors of 200 problems around the script's own measurement
    assert measured["pass@1"] == pytest.approx(0.33, abs=0.06)
    assert measured["pass@16"] == pytest.approx(0.94, abs=0.08)
    assert measured["entropy"] == pytest.approx(0.53, abs=0.03)


def decoded(tokenizer, tokens):
    return [text.split(":") for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def test_demonstrations_are_right_unless_sloppy_and_never_a_test_problem(tokenizer):
    demonstrations = demo_base.Demonstrations(tokenizer, seed=0)
    for sloppy, low, high in ((0.0, 1.0, 1.0), (0.5, 0.45, 0.6)):
        right = 0
        for problem, answer in decoded(tokenizer, demonstrations.sample(500, sloppy)):
            numbers, target = problem.split("=")
            row = {"prompt": problem, "answer": answer, "target": int(target)}
            row["numbers"] = [int(n) for n in numbers.split(",")]
            right += demo_base.is_right(answer, row)
            key = (tuple(sorted(row["numbers"])), row["target"])
            assert problem_split("countdown", key) == "train"
        assert low <= right / 500 <= high


def test_training_is_deterministic(tokenizer):
    def trained():
        set_seed(0)
        model = demo_base.build_model(tokenizer)
        demonstrations = demo_base.Demonstrations(tokenizer, seed=0)
        demo_base.train(model, demonstrations, demo_base.Phase(5, 1e-2, sloppy=0.0))
        return model.state_dict()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = trained(), trained()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)
