"""What `rlvr check` says of prompts, templates, ends and gold answers, by tokenizers made like Qwen's, Llama's and Gemma's."""

import json

import pytest

from rlvr.check.golds import check_golds
from rlvr.check.probe import look, probe
from rlvr.inputs import end_tokens, load_tokenizer
from rlvr.recipe import NamedItem, load_recipe
from tests.check import chat_models
from tests.run import launch

BOXED = "Put your final answer within \\boxed{}."
SYSTEM = f"data.system='{BOXED}'"
RECIPE = """
model: {{path: {model}}}
data: {{path: {data}}}
rewards: {{verifiers: [math], workers: 1}}
rollout: {{prompts_per_rollout: 8, prompts_per_update: 4, group_size: 4, max_completion_length: 64}}
training: {{updates: 2, device: cpu}}
output: {output}
"""


def sums(count=32, **more):
    return [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} | more for i in range(count)]


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes a recipe on a tokenizer and rows, and returns its file."""

    def write(tokenizer, rows=None, *, ends=None):
        model = chat_models.model(tmp_path / "model", tokenizer, ends=ends)
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows or sums()))
        file = tmp_path / "recipe.yaml"
        file.write_text(RECIPE.format(model=model, data=data, output=tmp_path / "run"))
        return file

    return write


def findings(file, *overrides):
    """Return the lines of `rlvr check`, which must pass, by label."""
    result = launch.command("check", file, *overrides)
    assert result.code == 0, result.err
    lines = [(line[:10].strip(), line[10:]) for line in result.out.splitlines()]
    return {label: "\n".join(text for name, text in lines if name == label) for label, _ in lines}


def qwen(template=chat_models.QWEN, eos="<|im_end|>"):
    return chat_models.tokenizer("qwen", template, eos=eos)


def llama(template=chat_models.LLAMA, eos="<|eot_id|>", bos="<|begin_of_text|>"):
    return chat_models.tokenizer("llama", template, eos=eos, bos=bos)


def gemma(eos="<end_of_turn>"):
    return chat_models.tokenizer("gemma", chat_models.GEMMA, eos=eos, bos="<bos>")


@pytest.mark.parametrize(
    ("tokenizer", "overrides"),
    [
        (qwen(), [SYSTEM]),
        (qwen(chat_models.QWEN_THINKING), [SYSTEM]),
        (llama(), [SYSTEM]),
        (gemma(), [f"data.template='{{prompt}} {BOXED.replace('{}', '{{}}')}'", "data.system=''"]),
    ],
    ids=["qwen", "qwen that thinks", "llama", "gemma"],
)
def test_a_tuned_model_with_its_template_gives_no_warning(recipe, tokenizer, overrides):
    said = findings(recipe(tokenizer), *overrides)
    assert "warning" not in said
    assert "32 of 32 gold answers are right" in said["golds"]


def test_the_first_prompt_is_shown_as_the_model_gets_it(recipe):
    said = findings(recipe(llama()), SYSTEM)
    assert said["prompt"].startswith("'<|begin_of_text|><|start_header_id|>system<|end_header_id|>")
    assert said["prompt"].count("<|begin_of_text|>") == 1
    assert "<|start_header_id|>assistant<|end_header_id|>\\n\\n'" in said["prompt"]
    assert "of 32 looked at" in said["prompts"]


def test_text_goes_to_a_model_as_it_is_with_what_its_tokenizer_adds():
    made = llama()
    seen = look("2 + 2 =", made, {})
    assert made.decode(seen.ids) == "<|begin_of_text|>2 + 2 ="
    assert seen.conversation is None


def test_options_of_the_template_are_those_of_the_run():
    template = chat_models.QWEN.replace(
        "assistant\n{% endif %}", "assistant\n{{ mood }}{% endif %}"
    )
    seen = look([{"role": "user", "content": "a"}], qwen(template), {"mood": "calm"})
    assert seen.text.endswith("assistant\ncalm")


def test_a_base_model_whose_end_is_not_the_templates_is_warned_of_with_the_fix(recipe):
    base = qwen(eos="<|endoftext|>")
    said = findings(recipe(base), SYSTEM)["warning"]
    assert "ends the model's turn with '<|im_end|>', but sampling stops at '<|endoftext|>'" in said
    both = sorted(base.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert f'"eos_token_id": {both} in generation_config.json' in said


def test_an_end_in_the_models_generation_settings_counts(recipe):
    base = qwen(eos="<|endoftext|>")
    ends = base.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    file = recipe(base, ends=ends)
    assert "warning" not in findings(file, SYSTEM)
    loaded, _ = load_recipe(file)
    assert end_tokens(loaded, load_tokenizer(loaded)) == frozenset(ends)


def test_a_template_that_opens_no_turn_is_warned_of(recipe):
    said = findings(recipe(llama(chat_models.DEAF)), SYSTEM)["warning"]
    assert "does not open the model's turn" in said
    assert "<|start_header_id|>assistant<|end_header_id|>" in said


def test_a_beginning_that_stands_twice_is_warned_of(recipe):
    rows = [row | {"prompt": f"<|begin_of_text|>{row['prompt']} {BOXED}"} for row in sums()]
    said = findings(recipe(llama(), rows))["warning"]
    assert "begin with '<|begin_of_text|>' twice" in said


def test_messages_without_a_template_are_an_error_at_their_key(recipe):
    file = recipe(qwen(template=None))
    for command in ("check", "train"):
        result = launch.command(command, file, SYSTEM)
        assert result.code == 2
        assert "command line: data.system: the prompts are chat messages" in result.err
        assert "no chat template" in result.err
    rows = sums(prompt=[{"role": "user", "content": "1 + 1?"}])
    result = launch.command("check", recipe(qwen(template=None), rows))
    assert f"{file}:3: data.path: the prompts are chat messages" in result.err


def test_messages_that_the_template_refuses_are_an_error_at_their_key(recipe):
    file = recipe(gemma())
    for command in ("check", "train"):
        result = launch.command(command, file, SYSTEM)
        assert result.code == 2
        assert (
            "data.system: the chat template of the model refuses messages of the roles system, user"
            in result.err
        )
        assert "System role not supported" in result.err
        assert "data.system=''" in result.err


def test_prompts_that_do_not_say_how_to_answer_are_warned_of(recipe):
    said = findings(recipe(qwen()))["warning"]
    assert "math looks for the final answer" in said
    assert "\\boxed" in said
    asked = {
        "the template": "data.template='{prompt} Put it in \\boxed{{}}.'",
        "another form that is read": "data.template='{prompt} End with: The answer is'",
    }
    for override in asked.values():
        assert "warning" not in findings(recipe(qwen()), override)
    only = "rewards.verifiers=[{math: {boxed_only: true}}]"
    said = findings(recipe(qwen()), only, asked["another form that is read"])
    assert "looks for the final answer" in said["warning"]


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("expects", [True, False])
def test_a_thought_that_the_template_opens_has_to_be_what_the_verifier_expects(
    recipe, thinks, expects
):
    made = qwen(chat_models.QWEN_THINKING if thinks else chat_models.QWEN)
    option = f"rewards.verifiers=[math, {{format: {{think_in_prompt: {str(expects).lower()}}}}}]"
    said = findings(recipe(made), SYSTEM, option)
    if thinks == expects:
        assert "warning" not in said
    else:
        wanted = f"rewards.verifiers[1].format.think_in_prompt={str(thinks).lower()}"
        assert wanted in said["warning"]


def test_prompts_that_are_too_long_are_counted(recipe):
    rows = sums(28) + [{"prompt": f"{i} " * 3000, "answer": "1"} for i in range(4)]
    said = findings(recipe(qwen(), rows), SYSTEM)
    assert "left out: 4 with a prompt longer than 4032 tokens" in said["note"]  # 4096 - 64
    assert said["data"].startswith("data: 28 rows")


def test_a_tokenizer_that_cannot_be_had_is_said_and_the_rest_is_checked(recipe, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = findings(recipe(qwen()), "model.path=nobody/nothing")
    assert "the tokenizer of nobody/nothing cannot be had here" in said["note"]
    assert "32 of 32 gold answers are right" in said["golds"]


# gold answers


def golds(verifier, rows, **options):
    return check_golds(NamedItem(name=verifier, options=options), rows, workers=1)


def test_gold_answers_that_no_completion_can_reach_are_warned_of(recipe):
    rows = sums(24) + [{"prompt": f"Name {i}?", "answer": "<answer>3</answer>"} for i in range(8)]
    said = findings(recipe(qwen(), rows), SYSTEM)["warning"]
    assert "math: 24 of 32 gold answers are right" in said
    assert "not '<answer>3</answer>': wrong" in said
    assert "rlvr reward audit" in said


def test_golds_are_stated_in_the_form_that_the_verifier_reads():
    rows = [{"prompt": "Which?", "answer": letter, "choices": list("xyz")} for letter in "ABC"]
    assert golds("choice", rows).problems == []
    assert golds("exact", [{"prompt": "Capital?", "answer": "Rome"}]).wrap == "bare"


def test_verifiers_that_read_no_gold_are_not_asked():
    assert golds("format", sums()) is None
    assert golds("math", [{"prompt": "a", "answer": None}]) is None
    assert golds("mine.py:reward", sums()) is None
    # the answer of such rows is a solution where it helps, and nothing where it does not
    row = {"prompt": "", "numbers": [1, 2], "target": 3}
    assert golds("countdown", [row | {"answer": "1+2"}]).problems == []
    assert golds("countdown", [row | {"answer": "no"}]) is None


def test_findings_are_of_the_recipes_own_prompts(recipe):
    file = recipe(qwen())
    loaded, _ = load_recipe(file)
    tokenizer = load_tokenizer(loaded)
    labels = [item.label for item in probe(loaded, sums(), tokenizer, frozenset({1}))]
    assert labels == ["prompt", "prompts", "warning"]  # text: no template is looked at
