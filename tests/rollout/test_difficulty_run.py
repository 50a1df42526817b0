"""A run that remembers its prompts: what it writes, that stopping it changes nothing, and that a filter does its work."""

import json
from statistics import fmean

import pytest

from rlvr.monitor.metrics import describe
from rlvr.rollout.stream import prompt_stream
from tests.run import launch
from tests.run.test_resume import ARGUMENTS, check_same, stopped

# 8 of 16 prompts a rollout: the second epoch begins with the third
SIZE = ("data.size=16", "rollout.prompts_per_update=8")
CHOICES = {
    "filter": "{min_pass_rate: 0.3, max_pass_rate: 0.7}",
    "weight": "{weight_floor: 0.05, memory: 0.2}",
    "both": "{max_pass_rate: 0.7, weight_floor: 0.05}",
}
DYNAMIC = "rollout.dynamic_sampling={max_refills: 1, keep_leftovers: true}"


def arguments(choice: str) -> tuple[str, ...]:
    return (*ARGUMENTS, *SIZE, f"rollout.difficulty={CHOICES[choice]}")


def test_a_run_that_only_remembers_is_the_plain_run_and_writes_what_it_knows(tmp_path):
    plain, remembering = tmp_path / "plain", tmp_path / "remembering"
    launch.train(plain, *ARGUMENTS)
    launch.train(remembering, *ARGUMENTS, "rollout.difficulty={}")
    rows = launch.rows(remembering)
    assert [rows[0]["difficulty/prompts_seen"], rows[4]["difficulty/prompts_seen"]] == [8, 16]
    for one, other in zip(launch.rows(plain), rows, strict=True):
        own = {name for name in other if name.startswith("difficulty/")}
        assert all(describe(name) is not None for name in own)
        assert launch.numbers(one) == {
            name: value for name, value in launch.numbers(other).items() if name not in own
        }
    lines = [json.loads(line) for line in (remembering / "difficulty.jsonl").open()]
    assert len(lines) == 16  # two rollouts of 64 prompts
    assert {line["judged"] for line in lines} == {4.0}
    # the first rollout is trained on whole: its rewards are 0 or 1
    right = sum(row["verdict/correct"] for row in launch.rows(plain)[:4]) / 4
    first = prompt_stream(64, 8, seed=42)
    assert fmean(line["pass_rate"] for line in lines if line["row"] in first) == right
    assert not (plain / "difficulty.jsonl").exists()


@pytest.mark.parametrize(
    ("choice", "dynamic"), [("filter", ()), ("weight", (DYNAMIC,)), ("both", ())]
)
def test_a_resumed_run_chooses_the_prompts_of_one_that_was_not_stopped(tmp_path, choice, dynamic):
    whole = tmp_path / "whole"
    launch.train(whole, *arguments(choice), *dynamic)
    for row in launch.rows(whole):
        assert all(describe(name) is not None for name in row)
    output = stopped(whole, tmp_path / "run", checkpoint=4, row=5)
    (output / "difficulty.jsonl").unlink()
    launch.train(output, *arguments(choice), *dynamic, "--resume")
    check_same(output, whole)
    written = [(folder / "difficulty.jsonl").read_text() for folder in (whole, output)]
    assert written[0] == written[1]


def test_a_later_run_starts_from_what_an_earlier_one_knew(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    launch.train(first, *arguments("filter"))
    known = [json.loads(line) for line in (first / "difficulty.jsonl").open()]
    easy = [line for line in known if line["right"] / line["judged"] > 0.7]
    options = f"rollout.difficulty={{start: {first}, max_pass_rate: 0.7, memory: 1}}"
    launch.train(second, *ARGUMENTS, *SIZE, "training.updates=1", options)
    row = launch.rows(second)[0]
    assert row["difficulty/too_easy_fraction"] == len(easy) / 16
    prompts = {line["row"]: line for line in map(json.loads, (second / "difficulty.jsonl").open())}
    visited = {line["row"]: line["visits"] for line in known}
    again = {number for number, line in prompts.items() if line["visits"] > visited.get(number, 0)}
    stand_ins = row["difficulty/stand_ins"]
    assert len(again & {line["row"] for line in easy}) == stand_ins


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_filter_that_can_never_act_is_refused_before_a_model_is_loaded(tmp_path, command):
    model = launch.without_weights(tmp_path / "model")
    options = ("rollout.difficulty={max_pass_rate: 0.9}", f"model.path={model}")
    result = launch.command(command, "demo", *launch.SMALL, *options, f"output={tmp_path / 'run'}")
    assert result.code == 2
    assert "rollout.difficulty.max_pass_rate has no effect: the run samples 8 prompts" in result.err
    assert "rollout.difficulty.start" in result.err


def test_pass_rates_that_are_not_there_are_refused_before_a_model_is_loaded(tmp_path):
    model = launch.without_weights(tmp_path / "model")
    options = (f"rollout.difficulty={{start: {tmp_path / 'nothing'}}}", f"model.path={model}")
    result = launch.command("train", "demo", *launch.SMALL, *options, f"output={tmp_path / 'run'}")
    assert result.code == 2
    assert "no pass rates at" in result.err


@pytest.mark.slow
def test_a_filter_lowers_the_share_of_groups_that_teach_nothing(tmp_path):
    common = (
        *("data.size=64", "rollout.prompts_per_rollout=16", "rollout.prompts_per_update=16"),
        *("rollout.group_size=8", "training.updates=32", "training.micro_batch_size=128"),
        *(*launch.UNEVALUATED, "monitor.completions_every=0"),
    )
    shares = []
    for choice in ("{}", "{min_pass_rate: 0.1, max_pass_rate: 0.9}"):
        run = tmp_path / str(len(shares))
        launch.train(run, *common, f"rollout.difficulty={choice}")
        # from the second epoch on
        shares.append(fmean(row["group/zero_advantage_fraction"] for row in launch.rows(run)[4:]))
    assert shares[1] < 0.8 * shares[0]
