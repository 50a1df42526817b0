"""`rlvr eval` measures the model that was trained, under the run's own protocol."""

import json

import pytest

from tests.run import launch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "plain"
    launch.train(output, "evaluation.sets.countdown.size=24", "evaluation.samples=8")
    return output


def test_a_run_is_evaluated_as_at_its_end(run):
    result = launch.command("eval", run)
    assert result.code == 0, result.err
    written = json.loads((run / "eval.json").read_text())
    last = launch.rows(run)[-1]
    # other samples of the same policy: 24 problems, 8 samples
    for name in ("eval/countdown/pass@1", "eval/countdown/distinct_correct"):
        assert written["metrics"][name] == pytest.approx(last[name], rel=0.35)
    assert written["metrics"]["eval/countdown/prompts"] == 24
    assert written["protocol"]["samples"] == 8
    assert "countdown" in result.out
    assert str(run / "eval.json") in result.out


def test_numbers_that_are_there_are_not_overwritten(run):
    launch.command("eval", run, "evaluation.samples=2", "evaluation.k=[1, 2]")
    result = launch.command("eval", run, "evaluation.samples=3", "evaluation.k=[1, 3]")
    assert result.code == 0, result.err
    files = sorted(path.name for path in run.glob("eval*.json"))
    assert len(files) >= 2
    newest = json.loads((run / files[-1]).read_text())
    assert "eval/countdown/pass@3" in newest["metrics"]


def test_a_model_folder_is_evaluated_under_a_recipe(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["evaluation.samples=2", "evaluation.k=[1]", "evaluation.sets.countdown.size=4"]
    result = launch.command("eval", run / "final", "demo", *sizes)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "eval.json").read_text())["model"] == str(run / "final")


def test_an_adapter_is_evaluated_on_its_base(tmp_path):
    output = tmp_path / "lora"
    launch.train(
        output, "model.lora.rank=2", "evaluation.at_end=false", "evaluation.at_start=false"
    )
    result = launch.command("eval", output)
    assert result.code == 0, result.err
    assert (output / "eval.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing/here"], "no recipe is given"),
        (["nothing/here", "demo"], "no tokenizer at 'nothing/here'"),
        (["nothing/here", "demo", "evaluation.sets=[]"], "has no held-out set"),
    ],
)
def test_what_is_missing_is_said(arguments, said):
    result = launch.command("eval", *arguments)
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err
