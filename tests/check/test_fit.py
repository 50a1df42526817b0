"""`rlvr check`: memory and time on the screen, from a configuration alone."""

import json
import os
import resource
import subprocess
import sys

import pytest
import yaml

from rlvr import cli
from rlvr.assemble import lora_config
from rlvr.check.fit import job_of, looks
from rlvr.check.hardware import GPUS, Layout, find_gpu, read_profile, recognise
from rlvr.check.memory import Vllm
from rlvr.check.plan import plan_batches
from rlvr.check.shape import shape_of, usual_config
from rlvr.compose import SHIPPED
from rlvr.controls import build_chain
from rlvr.recipe import load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the configuration of a model of seven billion parameters, and nothing else."""
    path = tmp_path_factory.mktemp("seven")
    usual_config("7b").save_pretrained(path)
    return path


@pytest.fixture
def run(capsys, folder):
    """Return (exit code, standard output) of `rlvr check dapo_math` with this model."""

    def start(*args, model=folder):
        code = 0
        try:
            cli.main(["check", "dapo_math", "--no-data", f"model.path={model}", *args])
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return start


def test_a_configuration_without_weights_is_enough(run):
    code, said = run("--accelerate-config", "zero3", "--gpu", "h200")
    assert code == 0
    assert "7.62 billion parameters" in said
    assert "each of 8 x h200 (ZeRO-3)" in said
    assert "KV cache" in said
    assert "time      about" in said
    assert "rollout.engine=vllm: about" in said
    assert said.splitlines()[-1] == "ok"


def test_a_named_gpu_that_is_too_small_ends_with_code_1_and_what_needs_less(run):
    code, said = run("--gpu", "a100-40")
    assert code == 1
    assert "warning   IT DOES NOT FIT" in said
    assert "model.lora.rank=16" in said
    assert said.splitlines()[-1] != "ok"


def test_what_is_said_to_fit_fits_when_it_is_done(run):
    _, said = run("--gpu", "a100", "--processes", "8")
    [line] = [line for line in said.splitlines() if "--accelerate-config zero2" in line]
    assert "fits" in line
    changes, _, rest = line.strip().partition("  ")
    gib = float(rest.split()[0])
    options = [part for change in changes.split(", ") for part in change.split(" ")]
    code, said = run("--gpu", "a100", "--processes", "8", *options)
    assert code == 0
    assert f"memory    about {gib:.1f} GiB" in said


def test_an_assumed_gpu_is_said_and_refuses_nothing(run):
    if find_gpu().is_chosen:
        pytest.skip("there is a GPU")
    code, said = run()
    assert code == 0
    assert "h100 (one process, assumed; --gpu says otherwise)" in said
    assert "IT DOES NOT FIT" in said


def test_a_configuration_out_of_reach_is_one_line_and_a_size_takes_its_place(run, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, said = run("--gpu", "h100", model="nobody/nothing-7B")
    assert code == 0
    assert len([line for line in said.splitlines() if line.startswith("memory")]) == 1
    assert "memory    not estimated: no configuration of nobody/nothing-7B" in said
    code, said = run(
        "--gpu", "h200", "--zero", "2", "--processes", "8", "--model-size", "7b", model="nobody/x"
    )
    assert code == 0
    assert "the shape of Qwen2.5-7B: 7.62 billion parameters" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--gpu", "h1000"], "unknown GPU 'h1000'. Did you mean"),
        (["--model-size", "8b"], "unknown size '8b'"),
        (["--zero", "2", "--accelerate-config", "zero3"], "give one of the two"),
        (["--accelerate-config", "zeroo3"], "Did you mean 'zero3'?"),
        (["rollout.max_completion_length=40000"], "the context of"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(run, args, said):
    code, found = run(*args)
    assert code == 2
    assert said in found
    assert "Traceback" not in found


def test_the_run_takes_its_updates_and_shorter_completions_less(run):
    machine = ("--accelerate-config", "zero3", "--gpu", "h200", "rollout.batch_size=32")
    _, said = run(*machine, "training.updates=100", "training.epochs=null")
    assert "for 100 updates; completions of 3072 tokens (their limit; --mean-length N)" in said
    _, said = run(*machine, "--mean-length", "800")
    assert "completions of 800 tokens\n" in said


def test_a_cpu_has_a_share_of_this_machines_memory_and_no_time(capsys):
    cli.app(args=["check", "smoke"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "cpu (one process)" in said
    assert "0.03 million parameters" in said
    assert "time      not estimated" in said
    assert said.splitlines()[-1] == "ok"
    assert find_gpu(None, "cpu", 2).gib == pytest.approx(find_gpu(None, "cpu").gib / 2)


def test_check_takes_less_than_ten_seconds_of_one_processor(folder):
    code = "from rlvr.cli import main; main()"
    args = ["check", "dapo_math", "--gpu", "a100", "--processes", "8", f"model.path={folder}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *args],
        check=False,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # not of the clock: other tests run beside this one
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", Layout(8)),
        ("zero1", Layout(8, stage=1)),
        ("zero2", Layout(8, stage=2)),
        ("zero3", Layout(8, stage=3)),
        ("zero3_cpu", Layout(2, stage=3)),
    ],
)
def test_shipped_profiles_are_read(name, expected):
    assert read_profile(name) == expected
    assert read_profile(str(SHIPPED / "accelerate" / f"{name}.yaml"), 3).processes == 3


def test_offload_is_read_from_a_profile_and_from_deepspeeds_own_file(tmp_path):
    values = yaml.safe_load((SHIPPED / "accelerate" / "zero3.yaml").read_text())
    values["deepspeed_config"]["offload_optimizer_device"] = "cpu"
    profile = tmp_path / "mine.yaml"
    profile.write_text(yaml.safe_dump(values))
    assert read_profile(str(profile)) == Layout(8, stage=3, offload_optimizer=True)
    zero = {"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "none"}}
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimization": zero}))
    values["deepspeed_config"] = {"deepspeed_config_file": str(config)}
    profile.write_text(yaml.safe_dump(values))
    assert read_profile(str(profile)) == Layout(8, stage=3, offload_weights=True)
    values["distributed_type"] = "FSDP"
    profile.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="distributed_type FSDP"):
        read_profile(str(profile))


@pytest.mark.parametrize(
    ("name", "gib", "key"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA H100 PCIe", 79.1, "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA A10G", 22.1, "a10"),
        ("NVIDIA GeForce RTX 4090", 23.5, "rtx4090"),
        ("NVIDIA RTX A6000", 47.5, "a6000"),
    ],
)
def test_a_gpu_is_recognised_by_the_name_its_driver_gives(name, gib, key):
    found = recognise(name, gib)
    assert (found.name, found.gib, found.bandwidth) == (key, gib, GPUS[key].bandwidth)


def test_a_gpu_that_is_not_in_the_table_has_its_memory_and_no_speed():
    found = recognise("NVIDIA H100 NVL", 93.1)
    assert (found.gib, found.teraflops) == (93.1, None)


def described(*overrides):
    """Return the job of dapo_math with these values."""
    recipe, _ = load_recipe("dapo_math", overrides=overrides)
    shape = shape_of(usual_config("7b"), "7b", lora_config(recipe))
    plan = plan_batches(recipe, 8)
    return job_of(recipe, plan, shape, Layout(8), GPUS["h100"]), looks(
        recipe, plan, build_chain(recipe)
    )


def test_a_recipe_says_what_its_job_is():
    job, passes = described()
    assert (job.prompt, job.completion, job.tokens) == (1024, 3072, 16 * 4096)
    assert (job.number, job.checkpointing, job.has_reference) == (2, True, False)
    assert passes == 1  # of the policy that sampled: 16 updates a rollout
    job, passes = described("algorithm.kl_coef=0.01")
    assert (job.has_reference, passes) == (True, 2)
    job, _ = described("algorithm.kl_coef=0.01", "model.lora.rank=8")
    assert not job.has_reference  # the adapter is switched off for it
    assert job.model.adapter == 8 * job.model.linear_width
    job, _ = described("model.lora.rank=8", "model.quantization=4bit")
    assert job.quantization == "4bit"
    job, _ = described("kernel.tolerance=1e-3", "training.gradient_checkpointing=false")
    assert (job.cache, job.checkpointing) == (0, False)
    job, _ = described("training.tokens_per_micro_batch=20000", "training.micro_batch_size=null")
    assert job.tokens == 20_000
    fields = ["vllm_gpu_memory_utilization=0.5", "vllm_enable_sleep_mode=true"]
    job, _ = described("rollout.engine=vllm", *(f"training.{field}" for field in fields))
    assert job.vllm == Vllm(0.5, sleeps=True)
    job, _ = described("rollout.engine=vllm", "training.vllm_mode=server")
    assert job.vllm is not None
    assert job.vllm.share == 0


def test_a_control_that_looks_at_the_policy_again_costs_a_pass_of_every_update_but_the_first():
    _, passes = described("entropy=[clip_cov]")
    _, plain = described()
    assert passes - plain == pytest.approx(15 / 16)
