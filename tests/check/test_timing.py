"""The estimate of time: operations as PyTorch counts them, and relations that must hold."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen3Config

from rlvr.check.hardware import GPUS, Gpu, Layout
from rlvr.check.memory import Job, Vllm, kv_bytes
from rlvr.check.plan import BatchPlan
from rlvr.check.shape import shape_of, usual_config
from rlvr.check.timing import (
    ARITHMETIC,
    LAYER_SECONDS,
    STREAM,
    _forward,
    _read_weights,
    estimate_time,
    with_vllm,
)

SEVEN = shape_of(usual_config("7b"), "7b")
TINY = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 3,
}


def job(shape=SEVEN, **changes):
    plan = BatchPlan(
        processes=1,
        prompts_per_rollout=64,
        prompts_per_update=16,
        group_size=8,
        passes=1,
        micro_batch_size=8,
    )
    start = Job(
        model=shape, gpu=GPUS["h100"], layout=Layout(), plan=plan, prompt=512, completion=2048
    )
    return replace(start, **changes)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_operations_are_those_that_pytorch_counts(kind):
    config = kind(**TINY, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config)
    told = 4 * 32 * _forward(job(shape_of(config, "tiny")), 32)
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=torch.ones(4, 32, dtype=torch.long)).logits.sum()
    # norms and rotary matrices are left out on either side but for vectors that count as matrices
    assert told == pytest.approx(forward.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert 2 * told == pytest.approx(backward.get_total_flops(), rel=0.02)


def test_training_is_three_forward_passes_and_four_with_checkpointing():
    def training(**changes):
        return estimate_time(job(**changes), 2048).training

    plain, again = training(checkpointing=False), training(checkpointing=True)
    step = 4 * 28 * SEVEN.parameters / (3350e9 * STREAM)  # four updates
    assert (again - step) / (plain - step) == pytest.approx(4 / 3)
    # 64 x 8 rows of 512 + 2048 tokens
    work = 64 * 8 * 2560 * _forward(job(), 2560) * 3
    assert plain - step == pytest.approx(work / (989e12 * ARITHMETIC))


def test_generation_by_transformers_is_the_weights_and_the_cache_read_for_each_token():
    small = job(number=2, layout=Layout(stage=1), together=64, completion=100, prompt=0)
    told = estimate_time(small, 100).rollout
    # weights in bfloat16; the cache, on average half full, copied and repeated for 28 / 4 heads
    step = 2 * SEVEN.parameters / (3350e9 * STREAM) + 28 * LAYER_SECONDS
    cache = 64 * 100**2 / 2 * kv_bytes(small) * (2 + 2 * 7) / (3350e9 * STREAM)
    assert told == pytest.approx(512 / 64 * (100 * step + cache))


def test_a_batch_of_transformers_goes_on_to_the_limit_and_vllm_fills_the_gaps():
    short, long = estimate_time(job(), 256), estimate_time(job(), 2048)
    assert short.rollout == long.rollout
    assert short.training < long.training
    short, long = estimate_time(with_vllm(job()), 256), estimate_time(with_vllm(job()), 2048)
    assert short.rollout < long.rollout / 4


def test_vllm_is_faster_and_a_larger_share_makes_it_faster_still():
    times = [estimate_time(job(vllm=vllm), 2048).rollout for vllm in (None, Vllm(0.3), Vllm(0.6))]
    assert times == sorted(times, reverse=True)
    assert times[1] < times[0] / 2


def test_more_gpus_take_less_time_for_the_same_update():
    plan = job().plan
    times = [
        estimate_time(job(plan=replace(plan, processes=n), layout=Layout(n, stage=2)), 2048)
        for n in (1, 4, 16)
    ]
    assert [time.total for time in times] == sorted((time.total for time in times), reverse=True)
    assert times[0].sync == 0 < times[1].sync
    assert times[0].updates == times[2].updates == 4


def test_frozen_weights_save_a_third_of_training():
    adapted = replace(SEVEN, adapter=40_000_000)
    layout = Layout(stage=1)
    whole, part = (
        estimate_time(job(shape, layout=layout, checkpointing=False), 2048).training
        for shape in (SEVEN, adapted)
    )
    assert part / whole == pytest.approx(2 / 3, rel=0.01)


def test_a_mixture_reads_a_tokens_experts_and_for_many_tokens_all():
    shape = shape_of(
        MixtralConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
        ),
        "tiny",
    )
    mixed = job(shape, layout=Layout(stage=1))
    assert _read_weights(mixed, 1) == pytest.approx(
        2 * (shape.parameters - shape.experts * (1 - 2 / 8))
    )
    assert _read_weights(mixed, 1000) == pytest.approx(2 * shape.parameters)


def test_hardware_of_unknown_speed_has_no_time():
    assert estimate_time(job(gpu=Gpu("cpu", 16.0)), 100) is None
    assert estimate_time(job(number=4), 100) is None
