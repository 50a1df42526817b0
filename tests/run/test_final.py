"""The final model is whole or not there, and a run that could not save it says so and fails."""

import shutil
from pathlib import Path

import pytest

from rlvr.final import Final
from tests import hub_server
from tests.full_disk import files_up_to
from tests.run import launch
from tests.trainer import tiny

# metrics and completions fit, half a model does
LIMIT = 80_000


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_final_model_that_does_not_fit_is_not_there_and_the_run_says_so_and_fails(tmp_path):
    run = tmp_path / "run"
    with files_up_to(LIMIT):
        result = launch.command(
            "train", "demo", *launch.SMALL, *launch.UNEVALUATED, f"output={run}"
        )
    assert result.code == 2
    assert f"{run / 'final'} could not be saved (" in result.err
    assert "File too large" in result.err
    assert "There is no final/, and no checkpoint either" in result.err
    assert "Traceback" not in result.err
    assert [row["update"] for row in launch.rows(run)] == [1, 2, 3, 4]
    assert not (run / "final").exists()
    assert [path for path in run.iterdir() if path.name.startswith(".")] == []


def test_the_model_before_it_stays_until_a_new_one_is_whole(tmp_path):
    trainer, final = tiny.trainer(tmp_path), Final(tmp_path)
    final.save(trainer)
    assert final.problem is None
    before = files(tmp_path / "final")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in before}
    trainer.model.get_input_embeddings().weight.data += 1
    with files_up_to(LIMIT):
        final.save(trainer)
    assert "File too large" in str(final.problem)
    assert files(tmp_path / "final") == before
    final.save(trainer)
    assert final.problem is None
    after = files(tmp_path / "final")
    assert after.keys() == before.keys()
    assert [path.name for path in after if after[path] != before[path]] == ["model.safetensors"]


def test_a_finished_run_without_its_final_model_says_where_the_weights_are(tmp_path):
    run = tmp_path / "run"
    arguments = (*launch.UNEVALUATED, "training.save_every=4")
    launch.train(run, *arguments)
    final = files(run / "final")
    shutil.rmtree(run / "final")
    said = launch.train(run, *arguments, "--resume").out
    assert "There is no final/, but a checkpoint of update 4" in said
    command = said.partition("rlvr export ")[2].partition("\n")[0]
    words = command.replace("FOLDER", str(tmp_path / "exported")).split()
    exported = launch.command("export", *words)
    assert exported.code == 0, exported.err
    weights = (tmp_path / "exported" / "model.safetensors").read_bytes()
    assert weights == final[Path("model.safetensors")]


@pytest.mark.parametrize("place", ["locked/run", "a file/run"])
def test_a_folder_that_cannot_be_written_is_said_before_a_model_loads(tmp_path, place):
    (tmp_path / "a file").touch()
    (tmp_path / "locked").symlink_to("/proc/self")  # where not even root may make a folder
    model = launch.without_weights(tmp_path / "model")
    run = tmp_path / place
    arguments = (*launch.SMALL, f"model.path={model}", f"output={run}")
    result = launch.command("train", "demo", *arguments)
    assert result.code == 2
    assert f"output: {run} cannot be written" in result.err
    assert "Traceback" not in result.err


def test_a_run_that_could_not_be_published_is_whole_and_says_how_to_publish_it(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    arguments = (*launch.SMALL, *launch.UNEVALUATED, "export.to=somebody/model")
    result = launch.command("train", "demo", *arguments, f"output={run}")
    assert result.code == 2
    assert f"the run in {run}, which is whole, was not exported" in result.err
    assert "Traceback" not in result.err
    assert [row["update"] for row in launch.rows(run)] == [1, 2, 3, 4]
    assert (run / "final" / "model.safetensors").is_file()
    command = result.err.partition("Again: rlvr ")[2].partition(", or publish")[0]
    with hub_server.serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        again = launch.command(*command.split())
    assert again.code == 0, again.err
    assert "model.safetensors" in hub.files["somebody/model"]
