"""A run on two processes without a GPU: data parallel, DeepSpeed ZeRO-2 and ZeRO-3."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from tests.run import launch

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "training.updates=6",
    "training.micro_batch_size=2",
    "training.save_every=1",
    "training.keep_checkpoints=10",
    # a target between the entropies of this run: the state decides the temperature and the rows
    # and a gradient through the head, in chunks, besides the loss
    "entropy=[{aepo: {rows: 4, prompt_fraction: 0.5, target: 0.5}}, {siren: {coef: 1.0}}]",
)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
COMPARED = ("reward", "tokens", "entropy", "grad_norm", "loss")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0")
LAUNCHERS = {
    "ddp": TORCHRUN,
    "zero2": (*ACCELERATE, "--config_file", "recipes/accelerate/zero2_cpu.yaml"),
    "zero3": (*ACCELERATE, "--config_file", "recipes/accelerate/zero3_cpu.yaml"),
}


def skip_without_deepspeed(launcher: str) -> None:
    """Skip the test where DeepSpeed cannot run."""
    if launcher != "ddp":
        pytest.importorskip("deepspeed", reason="pip install 'rlvr[deepspeed]'")
        if not (shutil.which("ninja") and shutil.which("g++")):
            pytest.skip("DeepSpeed compiles an operator: ninja and g++ are needed")


def execute(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=launch.ROOT,
        env=launch.environment(DS_ACCELERATOR="cpu"),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,  # the first time DeepSpeed compiles for a minute or two
    )


def start(launcher: str, output: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the recipe on two processes."""
    skip_without_deepspeed(launcher)
    arguments = (*launch.SMALL, *ARGUMENTS, f"output={output}", *args)
    done = execute(*LAUNCHERS[launcher], "-m", "rlvr.train", "demo", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a function that returns the folder and the output of a run."""
    folder = tmp_path_factory.mktemp("runs")
    done: dict[str, subprocess.CompletedProcess[str]] = {}

    def find(launcher: str) -> tuple[Path, str]:
        if launcher not in done:
            done[launcher] = start(launcher, folder / launcher)
        return folder / launcher, done[launcher].stdout

    return find


def prompts(run: Path, update: int, column: str = "prompt") -> list[str]:
    table = pyarrow.parquet.read_table(run / f"completions/update_{update:05d}.parquet")
    return table.column(column).to_pylist()


def completions(run: Path, update: int) -> list[str]:
    return prompts(run, update, "completion")


def close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Compare what updates measured: sums are added in another order."""
    for row, other in zip(rows[1:], others[1:], strict=True):
        for name in COMPARED:
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_make_one_run(finished, launcher):
    run, out = finished(launcher)
    assert out.count("32 completions, 16 on each of 2 processes") == 1  # one process speaks
    lines = (run / "metrics.jsonl").read_text().splitlines()
    updates = [json.loads(line)["update"] for line in lines if "grad_norm" in line]
    assert updates == [1, 2, 3, 4, 5, 6]
    rows = launch.rows(run)
    for row in rows[1:]:
        for name in ("reward", "entropy", "loss", "grad_norm", "tokens"):
            assert launch.is_finite(row[name])
    assert rows[0]["eval/countdown/prompts"] == rows[-1]["eval/countdown/prompts"] == 8
    assert len(prompts(run, 1)) == len(prompts(run, 5)) == 32


def test_two_processes_sample_and_learn_what_one_does(finished, tmp_path):
    run, _ = finished("ddp")
    alone = tmp_path / "alone"
    arguments = ("training.micro_batch_size=null", "training.tokens_per_micro_batch=100")
    launch.train(alone, *ARGUMENTS, *arguments)
    for update in (1, 5):
        assert prompts(run, update) == prompts(alone, update)
        assert completions(run, update) == completions(alone, update)
    close(launch.rows(run), launch.rows(alone))
    states = [
        json.loads((folder / "checkpoints/checkpoint-6/control_state.json").read_text())["controls"]
        for folder in (run, alone)
    ]
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("launcher", ["zero2", "zero3"])
def test_dividing_the_optimizer_or_the_weights_changes_no_number(finished, launcher):
    close(launch.rows(finished("ddp")[0]), launch.rows(finished(launcher)[0]))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_saved_model_is_whole(finished, launcher):
    from transformers import AutoModelForCausalLM

    run, _ = finished(launcher)
    base = dict(AutoModelForCausalLM.from_pretrained(launch.BASE).named_parameters())
    final = dict(AutoModelForCausalLM.from_pretrained(run / "final").named_parameters())
    assert {name: value.shape for name, value in final.items()} == {
        name: value.shape for name, value in base.items()
    }
    assert all(not torch.equal(value, base[name]) for name, value in final.items())


@pytest.mark.parametrize(
    ("launcher", "checkpoint"),
    [("ddp", 2), ("ddp", 4), ("zero2", 2), ("zero3", 2)],
    ids=["ddp, in a rollout", "ddp, between rollouts", "zero2", "zero3"],
)
def test_two_processes_go_on_from_a_checkpoint(finished, tmp_path, launcher, checkpoint):
    whole, _ = finished(launcher)
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    shutil.rmtree(output / "final")
    for update in range(checkpoint + 1, 7):
        shutil.rmtree(output / f"checkpoints/checkpoint-{update}")
    done = start(launcher, output, "--resume")
    assert f"from update {checkpoint}" in done.stdout
    assert f"{6 - checkpoint} rows of metrics" in done.stdout
    assert [launch.numbers(row) for row in launch.rows(output)] == [
        launch.numbers(row) for row in launch.rows(whole)
    ]


def test_one_process_goes_on_where_two_have_stopped(finished, tmp_path):
    whole, _ = finished("ddp")
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    shutil.rmtree(output / "final")
    for update in range(3, 7):  # in the middle of a rollout
        shutil.rmtree(output / f"checkpoints/checkpoint-{update}")
    launch.train(output, *ARGUMENTS, "--resume")
    for row, expected in zip(launch.rows(output)[1:], launch.rows(whole)[1:], strict=True):
        for name in COMPARED:
            assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_a_wrong_recipe_is_said_once_by_all_processes_together():
    done = execute(*TORCHRUN, "-m", "rlvr.train", "demo", *launch.SMALL, "rollout.group_siz=4")
    assert done.returncode != 0
    assert done.stderr.count("Did you mean 'group_size'") == 1


ZERO3 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,  # else a model this small stays whole
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}
PROFILE = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config: {{deepspeed_config_file: {path}, zero3_init_flag: false}}
num_machines: 1
num_processes: 2
use_cpu: true
"""


def test_weights_that_are_divided_between_updates_change_no_number(finished, tmp_path):
    skip_without_deepspeed("zero3")
    (tmp_path / "zero3.json").write_text(json.dumps(ZERO3))
    (tmp_path / "zero3.yaml").write_text(PROFILE.format(path=tmp_path / "zero3.json"))
    run = tmp_path / "run"
    program = str(Path(__file__).with_name("live_parameters.py"))
    arguments = (*launch.SMALL, *ARGUMENTS, f"output={run}")
    done = execute(
        *ACCELERATE, "--config_file", str(tmp_path / "zero3.yaml"), program, "demo", *arguments
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # two processes write to one stream: a line may hold two
    assert re.findall(r"live parameters: (\d+)", done.stdout) == ["0"] * 12
    close(launch.rows(run), launch.rows(finished("ddp")[0]))


def test_numbers_that_are_not_finite_end_all_processes_with_what_led_to_them(tmp_path):
    skip_without_deepspeed("zero2")
    # a loss that is a number, of a gradient whose squares are none
    (tmp_path / "huge.py").write_text(
        "def reward(sample):\n    return 1e30 * len(set(sample.completion))\n"
    )
    huge = (f"rewards.verifiers=['{tmp_path}/huge.py:reward']", "algorithm.advantage=group_mean")
    arguments = (*launch.SMALL, *launch.UNEVALUATED, *huge)
    run = tmp_path / "run"
    done = execute(*LAUNCHERS["zero2"], "-m", "rlvr.train", "demo", *arguments, f"output={run}")
    assert done.returncode != 0
    assert "is not finite" in done.stderr
    assert "the policy is that of update" in done.stderr
    [folder] = (run / "not_finite").iterdir()
    update = int(folder.name.removeprefix("update-"))
    assert [row["update"] for row in launch.rows(run)] == list(range(1, update))
    for rank in (0, 1):
        said = [
            json.loads(line) for line in (folder / f"rank-{rank}.jsonl").read_text().splitlines()
        ]
        # no completion shows it: all that teach are kept
        assert said
        assert all(item["not_finite"] == "" and float(item["advantage"]) for item in said)
    assert (folder / "policy" / "model.safetensors").is_file()
    assert not (run / "final").exists()
