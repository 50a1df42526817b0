"""Sampling with vLLM: what a recipe says of it reaches TRL, and what cannot work or has no effect is refused early."""

import importlib.util

import pytest

from rlvr.assemble import build_objective, trl_arguments
from rlvr.check.methods import check_device
from rlvr.check.plan import plan_batches
from rlvr.recipe import load_recipe
from rlvr.recipe_error import RecipeError
from tests.run import launch

VLLM = ("rollout.engine=vllm", "training.device=auto")
SERVER = (*VLLM, "training.vllm_mode=server")


def refusal(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", overrides=overrides)
    return str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
@pytest.mark.parametrize("command", ["check", "train"])
def test_vllm_that_is_not_installed_is_refused_before_a_model_is_loaded(tmp_path, command):
    model = launch.without_weights(tmp_path / "model")
    arguments = (*launch.SMALL, *VLLM, f"model.path={model}", f"output={tmp_path / 'run'}")
    result = launch.command(command, "demo", *arguments)
    assert result.code == 2
    assert "rollout.engine asks for vllm" in result.err
    assert "pip install 'rlvr[vllm]'" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "cut",
    [
        *("rollout.top_p=0.9", "rollout.top_k=50", "rollout.min_p=0.05"),
        r"training.vllm_structured_outputs_regex='\\d+'",
    ],
)
def test_a_cut_distribution_is_refused_with_a_correction_and_allowed_without(cut):
    said = refusal(*VLLM, cut)
    assert cut.partition("=")[0] in said
    assert "turn the cut off, or the correction (rollout.correction_max: null)" in said
    load_recipe("demo", overrides=(*VLLM, cut, "rollout.correction_max=null"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("training.vllm_mode=server",), "rollout.engine is transformers"),
        (("training.vllm_gpu_memory_utilization=0.5",), "rollout.engine is transformers"),
        ((*VLLM, "training.vllm_server_base_url=http://a:1"), "set vllm_mode: server"),
        ((*VLLM, "training.vllm_group_port=1"), "set vllm_mode: server"),
        ((*SERVER, "training.vllm_gpu_memory_utilization=0.5"), "give it to vllm serve"),
        ((*SERVER, "training.vllm_enable_sleep_mode=true"), "give it to vllm serve"),
        (
            (*SERVER, "training.vllm_server_base_url=http://a:1", "training.vllm_server_port=2"),
            "training.vllm_server_port is 2, but training.vllm_server_base_url says",
        ),
    ],
)
def test_a_setting_of_vllm_that_nothing_reads_is_refused(overrides, said):
    message = refusal(*overrides)
    assert overrides[-1].partition("=")[0] in message
    assert said in message


@pytest.mark.parametrize("key", ["temperature", "top_p", "max_new_tokens", "n"])
def test_generation_kwargs_do_not_overrule_the_rollout(key):
    message = refusal(f"training.generation_kwargs={{{key}: 2}}")
    assert f"training.generation_kwargs.{key} would sample otherwise" in message
    assert "rollout." in message
    load_recipe("demo", overrides=["training.generation_kwargs={frequency_penalty: 0.1}"])


def test_what_a_recipe_says_of_vllm_reaches_trl(tmp_path):
    own = {
        "server": {"vllm_server_base_url": "http://node:8000", "vllm_server_timeout": 60.0},
        "colocate": {
            "vllm_gpu_memory_utilization": 0.5,
            "vllm_tensor_parallel_size": 2,
            "vllm_max_model_length": 4096,
            "vllm_enable_sleep_mode": True,
            "vllm_model_impl": "transformers",
        },
    }
    for mode, settings in own.items():
        settings = settings | {"vllm_mode": mode}
        overrides = [f"training.{name}={str(value).lower()}" for name, value in settings.items()]
        recipe, _ = load_recipe("demo", overrides=[*VLLM, *overrides, f"output={tmp_path}"])
        objective = build_objective(recipe)
        assert objective.correction_max == 2.0
        arguments = trl_arguments(recipe, plan_batches(recipe), objective, updates=4)
        assert arguments.use_vllm
        assert {name: getattr(arguments, name) for name in settings} == settings


def test_engines_that_do_not_divide_the_processes_are_refused(monkeypatch):
    recipe, _ = load_recipe("demo", overrides=[*VLLM, "training.vllm_tensor_parallel_size=2"])
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        RecipeError, match="vllm_tensor_parallel_size is 2, which is no divisor of 3"
    ):
        check_device(recipe)
