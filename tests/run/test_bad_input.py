"""What a user can get wrong ends in one screen with the fix and code 2, before a model loads.

The model of these runs has a configuration and a tokenizer but no weights: a run that came as far as loading it
would fail in another way.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from tests.run import launch

COUNTDOWN = {"prompt": "1,2,3,4=10:", "answer": "1+2+3+4", "numbers": [1, 2, 3, 4], "target": 10}
LOCAL_DATA = ("data.task=null", "data.size=null")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problem(number: int) -> dict:
    return COUNTDOWN | {"prompt": f"1,2,3,{number}={6 + number}:"}


@pytest.fixture
def refused(tmp_path):
    """Return a function that runs a wrong command and returns what the user reads."""
    model = launch.without_weights(tmp_path / "model")
    output = tmp_path / "run"

    def run(*args: object) -> str:
        args = (
            *launch.SMALL,
            *launch.UNEVALUATED,
            f"model.path={model}",
            f"output={output}",
            *args,
        )
        result = launch.command("train", "demo", *args)
        assert result.code == 2
        assert "Traceback" not in result.err
        assert len(result.err.splitlines()) <= 10
        assert not output.exists()
        return result.err[result.err.index("error: ") :]

    return run


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param(
            ["rollout.group_siz=4"],
            ["rollout.group_siz is not a key", "Did you mean 'group_size'"],
            id="typo",
        ),
        pytest.param(
            ["rollout.group_size=many"],
            ["rollout.group_size is 'many'", "an integer"],
            id="wrong type",
        ),
        pytest.param(
            ["kernel.impl=triton"],
            ["kernel.impl is triton, but this process sees no GPU", "set kernel.impl=auto"],
            id="kernel for a GPU without one",
        ),
        pytest.param(
            ["rollout.prompts_per_update=3"],
            ["prompts_per_update", "set prompts_per_rollout to 6 or 9"],
            id="rollout that is not cut into updates",
        ),
        pytest.param(
            ["training.micro_batch_size=null", "training.tokens_per_micro_batch=8"],
            ["training.tokens_per_micro_batch is 8", "set it to 9 or more"],
            id="micro-batch that does not hold one completion",
        ),
        pytest.param(
            ["entropy=[clipcov]"],
            ["unknown entropy control 'clipcov'", "Did you mean 'clip_cov'"],
            id="unknown control",
        ),
        pytest.param(
            ["entropy=[{clip_cov: {fractoin: 0.1}}]"],
            ["fractoin", "Did you mean 'fraction'"],
            id="unknown option of a control",
        ),
        pytest.param(
            ["rewards.verifiers=[countdwn]"],
            ["unknown verifier 'countdwn'", "Did you mean 'countdown'"],
            id="unknown verifier",
        ),
        pytest.param(
            ["rollout.group_size=1"],
            ["rollout.group_size is 1", "set group_size to 2 or more"],
            id="group of one",
        ),
        pytest.param(
            ["entropy=[clip_cov, kl_cov]"],
            ["clip_cov and kl_cov both replace the clip", "keep one"],
            id="two controls that replace the clip",
        ),
        pytest.param(
            ["entropy=[kl_cov]", "rollout.prompts_per_update=8"],
            ["kl_cov", "one update per rollout", "lower prompts_per_update, or raise passes"],
            id="KL-Cov with one update per rollout",
        ),
        pytest.param(
            ["entropy=[{entropy_bonus: {coef: 0}}]"],
            ["entropy[0].entropy_bonus has no effect: coef is 0"],
            id="a bonus of nothing",
        ),
        pytest.param(
            ["entropy=[{clip_higher: {clip_high: 0.4}}]", "algorithm.surrogate=gpg"],
            ["clip_higher", "which the surrogate gpg does not use"],
            id="a clip that nothing reads",
        ),
        pytest.param(
            ["entropy=[{steer: {weight_min: 1.5}}]"],
            ["entropy[0].steer", "weight_min 1.5 is above weight_max 1"],
            id="a value out of its range",
        ),
        pytest.param(
            ["entropy=[{entropy_budget: {actuator: kl_cv}}]"],
            ["unknown actuator 'kl_cv'", "Did you mean 'kl_cov'"],
            id="unknown actuator",
        ),
        pytest.param(
            ["entropy=[aepo, {entropy_budget: {actuator: aepo}}]"],
            ["two controls ask for tempered rows; keep one"],
            id="two second rollouts",
        ),
        pytest.param(
            ["rollout.max_completion_length=64"],
            ["rollout.max_completion_length is 64", "context", "lower it"],
            id="completion as long as the context",
        ),
        pytest.param(
            ["model.path=./no-such-folder"],
            ["model.path", "./no-such-folder", "give a folder with a model"],
            id="no such model",
        ),
        pytest.param(
            ["--resume"],
            ["--resume", "no run at", "without --resume"],
            id="nothing to resume",
        ),
        pytest.param(
            ["data.size=8", "rollout.prompts_per_rollout=16"],
            ["rollout.prompts_per_rollout is 16", "8 prompts", "set it to 8"],
            id="fewer prompts than a rollout",
        ),
        pytest.param(
            ["rewards.verifiers=[no_such_file.py:reward]"],
            ["rewards.verifiers", "there is no file"],
            id="no file of a reward",
        ),
    ],
)
def test_a_wrong_recipe_is_one_screen_with_the_fix(refused, wrong, said):
    message = refused(*wrong)
    for part in said:
        assert part in message


def test_a_column_that_a_verifier_needs_and_no_row_has_is_named(refused, tmp_path):
    rows = [{"prompt": f"{n}", "answer": "1"} for n in range(16)]
    message = refused(*LOCAL_DATA, f"data.path={write(tmp_path / 'd.jsonl', rows)}")
    assert "need a column 'numbers'" in message
    assert "Columns: prompt, answer" in message
    assert "data.columns.numbers=" in message


def test_an_empty_data_set_is_named(refused, tmp_path):
    message = refused(*LOCAL_DATA, f"data.path={write(tmp_path / 'empty.jsonl', [])}")
    assert "empty.jsonl: the data set is empty" in message


def test_prompts_that_are_all_longer_than_the_model_are_measured_for_the_user(refused, tmp_path):
    rows = [COUNTDOWN | {"prompt": ",".join("7" * 60) + f"={n}:"} for n in range(16)]
    message = refused(*LOCAL_DATA, f"data.path={write(tmp_path / 'long.jsonl', rows)}")
    assert "all 16 prompts are longer than 56 tokens" in message  # 64 - 8 of the completion
    assert "lower rollout.max_completion_length" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_recipe_that_wants_a_gpu_says_so_where_there_is_none(refused):
    assert "set training.device=cpu" in refused("training.device=cuda")


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    "left", ["metrics.jsonl", "final/config.json", "checkpoints/checkpoint-1/x"]
)
def test_a_folder_with_another_run_is_refused_and_not_touched(tmp_path, left):
    model, output = launch.without_weights(tmp_path / "model"), tmp_path / "run"
    (output / left).parent.mkdir(parents=True)
    (output / left).write_text('{"update": 1}\n')
    before = checksums(output)
    args = (*launch.SMALL, f"model.path={model}", f"output={output}")
    result = launch.command("train", "demo", *args)
    assert result.code == 2
    assert f"{output} holds another run; nothing was changed" in result.err
    assert "--resume" in result.err
    assert "output=" in result.err
    assert checksums(output) == before


def test_a_start_that_fails_for_lack_of_weights_says_so_and_leaves_no_run_behind(refused):
    message = refused()
    assert "model.path" in message


REWARDS = """
def raises(sample):
    raise RuntimeError("no such luck")

def is_not_a_number(sample):
    return float("nan")

def raises_on_half(sample):
    if sum(map(ord, sample.completion)) % 2:
        raise KeyError("odd")
    return len(set(sample.completion)) / 10
"""


REASONS = {"raises": "no such luck", "is_not_a_number": "nan"}


@pytest.fixture
def rewards(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(REWARDS)
    return path


def completions(folder: Path) -> list[dict]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder / "completions/update_00001.parquet").to_pylist()


@pytest.mark.parametrize("function", REASONS)
def test_a_reward_without_a_number_is_a_counted_crash_and_never_zero(tmp_path, rewards, function):
    wanted = f"rewards.verifiers=['{rewards}:{function}']"
    result = launch.train(tmp_path / "run", *launch.UNEVALUATED, wanted)
    assert REASONS[function] in result.out + result.err  # not only in the files
    rows = launch.rows(tmp_path / "run")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["verdict/crashed"] == 1
        assert row["verdict/wrong"] == 0
        assert row["reward"] is None
        assert row["tokens"] == 0
        assert row["entropy"] is None or row["entropy"] > 0  # of no token: not measured, not 0
    written = completions(tmp_path / "run")
    assert {item["verdict"] for item in written} == {"crashed"}
    assert {item["reward"] for item in written} == {None}
    assert all(item["reason"] for item in written)


def test_a_reward_that_raises_on_some_completions_leaves_out_only_those(tmp_path, rewards):
    wanted = f"rewards.verifiers=['{rewards}:raises_on_half']"
    launch.train(tmp_path / "run", *launch.UNEVALUATED, wanted)
    written = completions(tmp_path / "run")
    crashed = [item for item in written if item["verdict"] == "crashed"]
    assert 0 < len(crashed) < len(written)
    for item in written:
        odd = sum(map(ord, item["completion"])) % 2 == 1
        assert (item["verdict"] == "crashed") == odd
        assert (item["reward"] is None) == odd
        if not odd:
            assert item["reward"] == pytest.approx(len(set(item["completion"])) / 10)
        if odd:
            assert item["advantage"] == 0
    rows = launch.rows(tmp_path / "run")
    share = sum(row["verdict/crashed"] for row in rows) / 4
    assert share == pytest.approx(len(crashed) / len(written))
