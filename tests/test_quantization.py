"""QLoRA: a rounded base under an exact adapter; what cannot work is refused before a model loads."""

import importlib.util
import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlvr.assemble import build_trainer
from rlvr.check.plan import plan_batches
from rlvr.export import export
from rlvr.inputs import load_inputs
from rlvr.recipe import load_recipe
from rlvr.rollout.completion import as_rows
from rlvr.train import run
from tests.run import launch

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="pip install 'rlvr[qlora]'"
)
LORA = ("model.lora={rank: 4}", "training.learning_rate=1e-2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.quantization=4bit"], ["model.quantization is 4bit, but model.lora is null"]),
        (
            ["model.quantization=8bit", *LORA, "rollout.engine=vllm"],
            ["model.quantization is 8bit", "rounds the base anew each time"],
        ),
        (["model.quantization=2bit", *LORA], ["model.quantization is '2bit'", "4bit"]),
    ],
    ids=["no adapter", "vllm", "unknown"],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(arguments, said):
    result = launch.command("check", "demo", *arguments)
    assert result.code == 2
    for text in said:
        assert text in result.err


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_a_package_that_is_missing_is_named(tmp_path):
    result = launch.command("check", "demo", "model.quantization=4bit", *LORA)
    assert result.code == 2
    assert "asks for bitsandbytes, which is not installed: pip install 'rlvr[qlora]'" in result.err


@needs_bitsandbytes
@pytest.mark.parametrize("given", ["profile", "file"])
def test_zero_3_is_refused_before_a_model_loads(tmp_path, monkeypatch, given):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    if given == "profile":
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    else:
        (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
    model = launch.without_weights(tmp_path / "model")
    arguments = (*launch.SMALL, f"model.path={model}", f"output={tmp_path / 'run'}")
    result = launch.command("train", "demo", *arguments, "model.quantization=8bit", *LORA)
    assert result.code == 2
    assert "ZeRO-3 divides weights among processes" in result.err


@needs_bitsandbytes
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_4_bits_without_a_gpu_are_refused_before_a_model_loads(tmp_path):
    model = launch.without_weights(tmp_path / "model")
    arguments = (*launch.SMALL, f"model.path={model}", f"output={tmp_path / 'run'}")
    result = launch.command("train", "demo", *arguments, "model.quantization=4bit", *LORA)
    assert result.code == 2
    assert "model.quantization is 4bit, but this process sees no GPU" in result.err


@needs_bitsandbytes
def test_a_run_on_8_bits_trains_resumes_and_is_exported(tmp_path):
    output = tmp_path / "run"
    arguments = (*launch.UNEVALUATED, *LORA, "model.quantization=8bit", "training.save_every=2")
    launch.train(output, *arguments)
    whole = [launch.numbers(row) for row in launch.rows(output)]
    assert all(launch.is_finite(row["loss"]) and row["grad_norm"] > 0 for row in whole)
    adapter = load_file(output / "final" / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    assert all(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)
    for name in ("final", "checkpoints/checkpoint-4"):
        (output / name).rename(tmp_path / name.replace("/", "-"))
    launch.train(output, *arguments, "--resume")
    assert [launch.numbers(row) for row in launch.rows(output)] == whole
    check_merged(output, tmp_path / "exported", launch.BASE)


def check_merged(run: Path, folder: Path, base: Path) -> None:
    """Check that an export is the adapter on the base in full precision, and says so."""
    export(run, str(folder))
    before, after = (load_file(place / "model.safetensors") for place in (base, folder))
    adapter = load_file(run / "final" / "adapter_model.safetensors")
    scale = 32.0 / 4
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        at = f"base_model.model.model.layers.0.{name}"
        change = scale * adapter[f"{at}.lora_B.weight"] @ adapter[f"{at}.lora_A.weight"]
        assert change.abs().max() > 1e-4
        found = after[f"model.layers.0.{name}.weight"] - before[f"model.layers.0.{name}.weight"]
        torch.testing.assert_close(found, change, rtol=0, atol=1e-6)
    assert "numbers while the adapter was trained" in (folder / "README.md").read_text()


@pytest.fixture
def wide(tmp_path, monkeypatch) -> Path:
    """Return a policy whose matrices are 64 wide, on which 4 bits are right on a CPU too."""
    import bitsandbytes

    # without the form for sampling that has no gradient
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    config = AutoConfig.from_pretrained(launch.BASE, hidden_size=64, intermediate_size=128)
    torch.manual_seed(0)
    folder = tmp_path / "wide"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(launch.BASE).save_pretrained(folder)
    return folder


@needs_bitsandbytes
def test_a_run_on_4_bits_trains_the_adapter_by_the_heads_own_matrix(wide, tmp_path):
    output = tmp_path / "run"
    arguments = (*launch.SMALL, *launch.UNEVALUATED, *LORA, "model.quantization=4bit")
    # a policy of random weights is never right: the bonus is what it learns
    bonus = "entropy=[{entropy_bonus: {coef: 0.1}}]"
    overrides = [*arguments, f"model.path={wide}", f"output={output}", bonus, "training.updates=2"]
    recipe, origins = load_recipe("demo", overrides=overrides)
    run(recipe, origins)
    for row in launch.rows(output):
        assert launch.is_finite(row["loss"])
        assert row["grad_norm"] > 0
    check_merged(output, tmp_path / "exported", wide)
    with closing(load_inputs(recipe)) as inputs:
        trainer = build_trainer(recipe, plan_batches(recipe, 1), inputs, 2)
        layer = trainer.model.get_submodule("base_model.model.model.layers.0.mlp.down_proj")
        assert layer.base_layer.weight.dtype == torch.uint8
        assert trainer._head(trainer.model).refusal is None
        assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
        rows = as_rows(
            trainer.complete([row["prompt"] for row in inputs.rows[:4]], seeds=range(4)),
            pad_token=trainer.pad_token,
        )
        seen = trainer.look(rows)
        ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)
        mask = torch.cat([rows.prompt_mask, rows.completion_mask], dim=1)
        with torch.no_grad():
            logits = trainer.model(input_ids=ids, attention_mask=mask.long()).logits
        width = rows.completion_ids.shape[1]
        wanted = logits[:, -width - 1 : -1].log_softmax(-1)
        wanted = wanted.gather(-1, rows.completion_ids.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(seen.logprobs[rows.mask], wanted[rows.mask])


@needs_bitsandbytes
def test_an_adapter_on_a_base_that_was_stored_in_4_bits_is_merged_into_its_numbers(wide, tmp_path):
    from peft import LoraConfig, get_peft_model

    from rlvr.quantization import quantization_config
    from rlvr.weights import export_weights

    kind = quantization_config("4bit", torch.float32)
    stored = AutoModelForCausalLM.from_pretrained(
        wide, dtype=torch.float32, quantization_config=kind
    )
    stored.save_pretrained(tmp_path / "stored")
    model = get_peft_model(stored, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "stored")
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(wide).save_pretrained(tmp_path / "adapter")
    (tmp_path / "plain").mkdir()
    export_weights(tmp_path / "adapter", tmp_path / "plain", ["1,2,3,4=10:1+2+3+4"])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert not hasattr(plain.config, "quantization_config")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        # products of 4-bit weights and of plain ones are rounded in another order
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
