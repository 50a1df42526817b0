"""What rlvr/trainer.py overrides or calls of TRL is there, with the parameters it counts on."""

import inspect
from importlib.metadata import version

import pytest
import trl
from trl.generation.vllm_generation import VLLMGeneration

SEAMS = {
    "_prepare_inputs": ["generation_batch"],
    "_compute_loss": ["model", "inputs"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
    "_tokenize_prompts": ["prompts"],
    "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields", "num_generations"],
    "_save_checkpoint": ["model", "trial"],
    "log": ["logs", "start_time"],
    "create_model_card": [],
}


def test_the_tested_minor_version_is_installed():
    assert version("trl").startswith("1.16.")


@pytest.mark.parametrize("name", SEAMS)
def test_trl_has_the_method_with_these_parameters(name):
    parameters = list(inspect.signature(getattr(trl.GRPOTrainer, name)).parameters)
    assert parameters[1 : 1 + len(SEAMS[name])] == SEAMS[name]


def test_trl_scales_no_loss_for_gradient_accumulation():
    assert trl.GRPOTrainer.loss_is_scaled_for_ga


def test_the_vllm_settings_that_are_changed_for_a_call_exist():
    source, call = map(inspect.getsource, (VLLMGeneration, VLLMGeneration.generate))
    sampling = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    imposed = ("structured_outputs_regex", "generation_kwargs")
    for name in (*sampling, "max_completion_length", *imposed):
        assert f"self.{name} = {name}" in source
        assert f"self.{name}" in call  # read at every call


def test_vllm_reports_log_probs_of_what_it_samples_from():
    assert 'logprobs_mode="processed_logprobs"' in inspect.getsource(VLLMGeneration)


def test_trl_refuses_an_adapter_on_the_head_by_the_name_that_is_replaced():
    source = inspect.getsource(trl.GRPOTrainer.__init__)
    assert "isinstance(model.get_output_embeddings(), BaseTunerLayer)" in source
    assert hasattr(inspect.getmodule(trl.GRPOTrainer), "BaseTunerLayer")
