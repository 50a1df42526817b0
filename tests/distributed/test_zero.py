"""What DeepSpeed saves in parts: exported whole, gone on from, and refused where it does not fit."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.distributed import live_logits
from tests.distributed.test_processes import (
    ACCELERATE,
    PROFILE,
    ZERO3,
    execute,
    skip_without_deepspeed,
)
from tests.run import launch

pytestmark = pytest.mark.slow

ARGUMENTS = (
    *launch.SMALL,
    *launch.UNEVALUATED,
    "training.updates=2",
    "training.save_every=1",
    "training.micro_batch_size=2",
)


def profile(folder: Path, **zero: object) -> str:
    """Write a profile for two processes on a CPU; return its path."""
    config = ZERO3 | {"zero_optimization": zero}
    (folder / "zero.json").write_text(json.dumps(config))
    (folder / "zero.yaml").write_text(PROFILE.format(path=folder / "zero.json"))
    return str(folder / "zero.yaml")


def launched(config: str, *program: str, output: Path) -> subprocess.CompletedProcess[str]:
    command = (*ACCELERATE, "--config_file", config, *program, "demo", *ARGUMENTS)
    return execute(*command, f"output={output}")


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    """Return the folder of a run under ZeRO-3 that saves nothing but parts, and `logits.pt` beside it."""
    skip_without_deepspeed("zero3")
    folder = tmp_path_factory.mktemp("divided")
    # without a threshold a model this small stays whole
    config = profile(folder, stage=3, stage3_param_persistence_threshold=0)
    program = (live_logits.__file__, str(folder / "logits.pt"))
    done = launched(config, *program, output=folder / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_model_that_was_divided_is_exported_with_the_logits_it_had_live(divided, tmp_path):
    live = torch.load(divided / "logits.pt", weights_only=True)
    assert live["live"] == 0  # between updates no process had a whole parameter
    assert live["update"] == 2
    checkpoint = divided / "run" / "checkpoints" / "checkpoint-2"
    assert not list(checkpoint.glob("*.safetensors"))
    exported = launch.command("export", checkpoint, "--to", tmp_path / "exported")
    assert exported.code == 0, exported.err
    assert not (tmp_path / "exported" / "zero_to_fp32.py").exists()
    for folder in (tmp_path / "exported", divided / "run" / "final"):
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logits = plain(torch.tensor(live_logits.TOKENS)).logits
        torch.testing.assert_close(logits, live["logits"], rtol=1e-6, atol=1e-6)
    base = AutoModelForCausalLM.from_pretrained(launch.BASE, dtype=torch.float32)
    with torch.no_grad():
        moved = base(torch.tensor(live_logits.TOKENS)).logits - live["logits"]
    assert moved.abs().max() > 1e-4


def test_a_checkpoint_in_parts_is_refused_by_other_launches_with_the_way_out(divided, tmp_path):
    shutil.copytree(divided / "run", tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    arguments = (*ARGUMENTS, "training.updates=4", f"output={tmp_path / 'run'}")
    refused = launch.command("train", "demo", *arguments, "--resume")
    assert refused.code == 2
    assert (
        "made with ZeRO-3 on 2 processes, and this is a run without DeepSpeed on 1" in refused.err
    )
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    parts = next((tmp_path / "run/checkpoints/checkpoint-2").glob("global_step*/*1_*optim*"))
    parts.unlink()
    exported = launch.command(
        "export", tmp_path / "run", "--checkpoint", "2", "--to", tmp_path / "exported"
    )
    assert exported.code == 2
    assert "are those of all processes here?" in exported.err
    assert not (tmp_path / "exported").exists()


def test_a_run_under_zero_1_goes_on_from_its_checkpoint_with_the_same_numbers(tmp_path):
    skip_without_deepspeed("zero1")
    config, output = profile(tmp_path, stage=1), tmp_path / "run"
    done = launched(config, "-m", "rlvr.train", output=output)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = [launch.numbers(row) for row in launch.rows(output)]
    weights = (output / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(output / "final")
    shutil.rmtree(output / "checkpoints" / "checkpoint-2")
    again = execute(
        *(*ACCELERATE, "--config_file", config, "-m", "rlvr.train", "demo", *ARGUMENTS),
        f"output={output}",
        "--resume",
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert "from update 1" in again.stdout
    assert [launch.numbers(row) for row in launch.rows(output)] == whole
    assert (output / "final" / "model.safetensors").read_bytes() == weights
