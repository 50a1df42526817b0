"""The estimate of memory, against bytes of real models, gradients, optimizers, caches and activations."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.cache_utils import DynamicCache
from trl import GRPOConfig

from rlvr.check.fit import TRL
from rlvr.check.hardware import GIB, GPUS, Gpu, Layout
from rlvr.check.memory import (
    HEAD_PIECE,
    PHASES,
    RUNTIME,
    Job,
    Vllm,
    estimate,
    kept_logits,
    kv_bytes,
    state_bytes,
)
from rlvr.check.plan import BatchPlan
from rlvr.check.remedy import remedies
from rlvr.check.shape import shape_of, usual_config
from tests.check.live_bytes import LiveBytes, counted
from tests.trainer import tiny

BASE = Path(__file__).parents[2] / "recipes" / "demo" / "base"
ROWS, PROMPT, COMPLETION = 4, 32, 96
SIZES = {
    "vocab_size": 100,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 6,
}
KINDS = [LlamaConfig, Qwen2Config, Qwen3Config]
PRECISIONS = {
    # number of the computation, dtype of the weights, whether it is autocast, DeepSpeed's stage
    "float32": (4, torch.float32, False, 0),
    "mixed": (2, torch.float32, True, 0),
    "deepspeed": (2, torch.bfloat16, False, 1),
}
SEVEN = shape_of(usual_config("7b"), "7b")


def plan(**changes):
    start = BatchPlan(
        processes=1,
        prompts_per_rollout=16,
        prompts_per_update=8,
        group_size=4,
        passes=1,
        micro_batch_size=ROWS,
    )
    return replace(start, **changes)


def job(shape, **changes):
    start = Job(
        model=shape,
        gpu=GPUS["h100"],
        layout=Layout(),
        plan=plan(),
        prompt=PROMPT,
        completion=COMPLETION,
    )
    return replace(start, **changes)


def real(kind, dtype, *, attention="sdpa"):
    config = kind(**SIZES, attn_implementation=attention)
    return config, AutoModelForCausalLM.from_config(config, dtype=dtype)


def size_of(tensors):
    return sum(item.numel() * item.itemsize for item in tensors)


def test_parameters_are_those_of_the_model_with_its_weights():
    shape = shape_of(AutoConfig.from_pretrained(BASE), "base")
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert shape.parameters == sum(item.numel() for item in model.parameters()) == 28_704
    assert shape.head == model.lm_head.weight.numel()
    # tied: the head's matrix is the embedding's, and every token is multiplied with it
    assert shape.active == shape.parameters


@pytest.mark.parametrize(
    ("size", "published"),
    [("0.5b", 0.49), ("1.5b", 1.54), ("3b", 3.09), ("7b", 7.61), ("14b", 14.7), ("72b", 72.7)],
)
def test_sizes_have_the_parameters_that_their_model_cards_name(size, published):
    parameters = shape_of(usual_config(size), size).parameters / 1e9
    assert parameters == pytest.approx(published, rel=0.01)


def test_a_mixture_counts_the_experts_that_a_token_goes_to():
    from transformers import MixtralConfig

    # Mixtral 8x7B: 46.7 billion, 12.9 of them for a token, its embedding included
    config = MixtralConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, vocab_size=32000
    )
    shape = shape_of(config, "mixtral")
    assert shape.parameters / 1e9 == pytest.approx(46.7, rel=0.005)
    assert (shape.active + 32000 * 4096) / 1e9 == pytest.approx(12.9, rel=0.005)
    assert (shape.expert_count, shape.experts_per_token) == (8, 2)


def test_an_adapter_has_the_parameters_that_peft_trains():
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    _, model = real(Qwen3Config, torch.float32)
    trained = [item for item in get_peft_model(model, config).parameters() if item.requires_grad]
    shape = shape_of(Qwen3Config(**SIZES), "tiny", config)
    assert shape.adapter == sum(item.numel() for item in trained)
    # what is offered as a remedy
    assert shape.adapter == 8 * shape.linear_width


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_a_real_model_after_a_step(kind):
    config, model = real(kind, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    found = (
        size_of(model.parameters()),
        size_of(item.grad for item in model.parameters()),
        size_of(moments),
    )
    assert state_bytes(job(shape_of(config, "tiny"))) == found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("kind", "attention"), [*((kind, "sdpa") for kind in KINDS), (LlamaConfig, "eager")]
)
def test_activations_are_those_of_real_passes_within_an_eighth(kind, attention, precision):
    number, dtype, autocasts, stage = PRECISIONS[precision]
    config, model = real(kind, dtype, attention=attention)
    for checkpointing in (False, True):
        told = estimate(
            job(
                shape_of(config, "tiny"),
                number=number,
                layout=Layout(stage=stage),
                checkpointing=checkpointing,
                attention=attention,
            )
        )
        parts = ("activations", "weights in low precision")
        wanted = {
            phase: sum(told.parts.get(part, {}).get(phase, 0) for part in parts) for phase in PHASES
        }
        if autocasts:  # the body alone is run here
            wanted["forward"] -= number * config.vocab_size * config.hidden_size
        forward, kept, backward = passes(model, autocasts, checkpointing)
        # rotary angles, token ids, what a product is copied to: small in a large model
        assert wanted["forward"] == pytest.approx(forward, rel=0.12)
        assert told.parts["activations"]["head"] + (
            0 if checkpointing else told.parts.get(parts[1], {}).get("layers", 0)
        ) == pytest.approx(kept, rel=0.05)
        assert wanted["layers"] == pytest.approx(backward, rel=0.12)


def passes(model, autocasts, checkpointing):
    """Return the bytes at the fullest of a forward pass, after it, and at the fullest of the backward pass."""
    tokens = torch.randint(0, SIZES["vocab_size"], (ROWS, PROMPT + COMPLETION))
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    if checkpointing:
        body.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        body.gradient_checkpointing_disable()
    model.train()
    with counted(model) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
            output = body.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)
        hidden = output.last_hidden_state
        del output
        forward, kept = live.peak, live.now
        live.peak = kept
        hidden.backward(torch.ones_like(hidden))
        return forward, kept, live.peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_of_an_adapter_are_those_of_a_real_pass_within_a_sixth(checkpointing):
    adapter = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    config, model = real(LlamaConfig, torch.bfloat16)
    adapted = get_peft_model(model, adapter)
    adapted.enable_input_require_grads()
    told = estimate(job(shape_of(config, "tiny", adapter), checkpointing=checkpointing))
    _, _, backward = passes(adapted, True, checkpointing)
    assert told.parts["activations"]["layers"] == pytest.approx(backward, rel=0.17)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_kv_cache_is_that_of_a_real_generation(kind, precision):
    number, dtype, autocasts, stage = PRECISIONS[precision]
    config, model = real(kind, dtype)
    cache = DynamicCache()
    tokens = torch.ones(2, 8, dtype=torch.long)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            past_key_values=cache,
            max_new_tokens=5,
            min_new_tokens=5,
            pad_token_id=0,
        )
    found = size_of(
        part for layer in cache.layers for part in (layer.keys, layer.values) if part is not None
    )
    told = kv_bytes(job(shape_of(config, "tiny"), number=number, layout=Layout(stage=stage)))
    # the last token is never looked at
    assert told * 2 * (8 + 5 - 1) == found


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_run_is_at_its_fullest_as_estimated_within_a_sixth(tmp_path, checkpointing):
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=64,
        intermediate_size=192,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=6,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    batches = tiny.plan(group_size=16, micro_batch_size=32)
    trainer = tiny.trainer(
        tmp_path,
        model=model,
        batch_plan=batches,
        max_completion_length=100,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    # a policy that knows nothing is never right: without this nothing would be learnt
    trainer._roller = replace(
        trainer._roller, advantage=lambda rewards, _: torch.linspace(-1, 1, len(rewards))
    )
    with LiveBytes(iter([*model.parameters(), *model.buffers()])) as live:
        trainer.train()
    told = estimate(
        job(
            shape_of(config, "tiny"),
            gpu=Gpu("cpu", 16.0),
            number=4,
            plan=batches,
            prompt=len("5,8,7,7=17:"),
            completion=100,
            checkpointing=checkpointing,
            together=64,
            kernel="naive",
        )
    )
    found = live.peak + size_of(model.parameters())
    assert told.peak - RUNTIME == pytest.approx(found, rel=1 / 6)
    assert told.peak - RUNTIME > found


def test_zero_divides_as_deepspeeds_own_estimators_say():
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    for processes in (2, 8, 64):
        two = state_parts(Layout(processes, stage=2))
        _, theirs = estimate_zero2_model_states_mem_needs(
            SEVEN.parameters, processes, cpu_offload=False
        )
        assert two["step"] == pytest.approx(theirs, rel=1e-6)
        moved = state_parts(Layout(processes, stage=2, offload_optimizer=True))
        _, theirs = estimate_zero2_model_states_mem_needs(
            SEVEN.parameters, processes, cpu_offload=True
        )
        assert moved["step"] == pytest.approx(theirs, rel=1e-6)
        three = state_parts(Layout(processes, stage=3))
        # theirs counts 18 bytes a number, and leaves out the float32 gradients that the step makes of those in bfloat16
        _, theirs, largest = estimate_zero3_model_states_mem_needs(
            SEVEN.parameters, SEVEN.largest_layer, processes, cpu_offload=False
        )
        assert three["step"] == pytest.approx((theirs - largest) * 20 / 18, rel=1e-6)


def state_parts(layout):
    """Return the bytes of weights, gradients and optimizer in each phase."""
    told = estimate(job(SEVEN, layout=layout, plan=plan(processes=1)))
    names = ("weights", "gradients", "optimizer")
    return {
        phase: sum(told.parts.get(name, {}).get(phase, 0.0) for name in names) for phase in PHASES
    }


def test_with_deepspeed_the_optimizer_has_the_weights_in_float32_and_without_the_model_has():
    # bytes of a number: weights, gradients, optimizer
    alone = [part / SEVEN.parameters for part in state_bytes(job(SEVEN))]
    assert alone == [4, 4, 8]
    zero1 = [part / SEVEN.parameters for part in state_bytes(job(SEVEN, layout=Layout(4, stage=1)))]
    assert zero1 == [2, 2, 12 / 4]
    zero3 = [part / SEVEN.parameters for part in state_bytes(job(SEVEN, layout=Layout(4, stage=3)))]
    assert zero3 == [2 / 4, 2 / 4, 12 / 4]


def test_each_stage_of_zero_and_each_halving_needs_less():
    lengths = {"prompt": 512, "completion": 2048}
    server = Vllm(0.0)  # to generate by itself ZeRO-3 gathers the weights
    peaks = [
        estimate(job(SEVEN, layout=Layout(8, stage=stage), vllm=server, **lengths)).peak
        for stage in range(4)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4
    rows = [
        estimate(job(SEVEN, plan=plan(micro_batch_size=size), **lengths)).totals["layers"]
        for size in (1, 2, 4, 8)
    ]
    assert rows == sorted(set(rows))


def test_a_micro_batch_of_tokens_takes_what_as_many_tokens_in_rows_take():
    by_rows = estimate(job(SEVEN, plan=plan(micro_batch_size=2)))
    limited = plan(micro_batch_size=32, tokens_per_micro_batch=2 * (PROMPT + COMPLETION))
    assert estimate(job(SEVEN, plan=limited)).totals == by_rows.totals
    # one row is never cut
    tiny = plan(micro_batch_size=32, tokens_per_micro_batch=1)
    assert job(SEVEN, plan=tiny).tokens == PROMPT + COMPLETION


def test_kept_logits_are_as_many_as_the_kernel_keeps():
    from rlvr.kernels.linear import _cache_rows

    config = AutoConfig.from_pretrained(BASE)
    shape = shape_of(config, "base")
    weight = torch.zeros(shape.vocabulary, shape.hidden)
    rows = _cache_rows(None, weight, "chunked", torch.float32)
    on_cpu = job(shape, gpu=Gpu("cpu", 16.0), number=4, completion=10**6)
    kept = kept_logits(on_cpu, 16.0 * GIB)
    assert kept // (shape.vocabulary * 4) == rows
    # few logits are kept whole
    few = job(shape, gpu=Gpu("cpu", 16.0), number=4)
    assert kept_logits(few, 16.0 * GIB) == ROWS * COMPLETION * shape.vocabulary * 4
    assert kept_logits(job(SEVEN, completion=4096, cache=0), 50.0 * GIB) == 0
    assert kept_logits(job(SEVEN, completion=4096), -1.0) == 0


def test_a_piece_of_the_head_is_as_large_as_triton_makes_it():
    launch = pytest.importorskip("rlvr.kernels.launch")
    assert launch.GRADIENT_BYTES == HEAD_PIECE


def test_what_trl_does_by_default_is_what_trl_says():
    defaults = {item.name: item.default for item in fields(GRPOConfig)}
    assert {name: defaults[name] for name in TRL} == TRL


def test_a_sleeping_vllm_leaves_its_memory_to_training():
    awake = estimate(job(SEVEN, vllm=Vllm(0.3)))
    asleep = estimate(job(SEVEN, vllm=Vllm(0.3, sleeps=True)))
    share = 0.3 * GPUS["h100"].gib * GIB
    for phase in ("forward", "head", "layers", "step"):
        before = awake.totals[phase] - awake.parts.get("kept logits", {}).get(phase, 0)
        after = asleep.totals[phase] - asleep.parts.get("kept logits", {}).get(phase, 0)
        assert before - after == pytest.approx(share)
    assert asleep.totals["rollout"] == awake.totals["rollout"]
    assert "KV cache" not in awake.parts
    server = estimate(job(SEVEN, vllm=Vllm(0.0)))
    assert "vLLM" not in server.parts


def test_what_fits_needs_no_remedy():
    assert remedies(job(SEVEN, layout=Layout(8, stage=3))) == []


def test_remedies_cost_time_before_anything_else_and_each_that_is_said_to_fit_does():
    # with all at once only the activations are too large
    long = {"prompt": 1024, "completion": 7168, "checkpointing": False}
    wide = job(SEVEN, layout=Layout(8, stage=3), plan=plan(processes=1), **long)
    [cure] = remedies(wide)
    assert cure.fits
    assert all(
        change.split("=")[0].startswith(("training.", "rollout.")) for change in cure.changes
    )
    assert cure.job.layout == wide.layout
    # the states alone are too large
    alone = job(SEVEN, layout=Layout(4), plan=plan(processes=4, prompts_per_update=16))
    found = remedies(alone)
    names = [item.changes[0] for item in found]
    assert [name for name in names if name.startswith("--")] == [
        f"--accelerate-config zero{stage}" for stage in (1, 2, 3)
    ]
    adapted = [item for item in found if item.changes[0] == "model.lora.rank=16"]
    assert [item.job.quantization for item in adapted] == [None, "4bit"]
    assert estimate(adapted[1].job).parts["weights"]["step"] < 0.45 * 2 * SEVEN.parameters
    assert any(item.fits for item in found)
    for item in found:
        assert item.fits == (item.gib <= GPUS["h100"].gib)


def test_a_smaller_micro_batch_is_no_smaller_than_it_must_be():
    lengths = {"prompt": 1024, "completion": 7168}
    base = job(SEVEN, layout=Layout(8, stage=3), plan=plan(micro_batch_size=32), **lengths)
    [cure] = remedies(base)
    size = cure.job.plan.micro_batch_size
    assert size < 32
    twice = replace(cure.job, plan=replace(cure.job.plan, micro_batch_size=2 * size))
    assert not estimate(twice).fits
