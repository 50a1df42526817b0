"""A completion is a function of its own seed: not of the batch, its size, its neighbours, or the global random state."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.rollout.draws import InverseSampling, drawing, inverse, seed_of, uniforms
from tests.trainer import tiny

PROMPTS = [row["prompt"] for row in tiny.ROWS]


def test_inverse_sampling_has_the_models_distribution():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, generator=generator).expand(200_000, 7)
    drawn = inverse(scores, uniforms([5], 200_000)[0])
    share = torch.bincount(drawn, minlength=7) / len(drawn)
    expected = scores[0].softmax(-1)
    # five standard deviations of a share
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / len(drawn)).sqrt()).all()


def test_a_token_without_probability_is_never_drawn_not_even_at_the_ends():
    scores = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]).expand(3, 5)
    ends = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert inverse(scores, ends).tolist() == [1, 3, 3]


def test_a_seed_has_the_same_numbers_whatever_is_beside_it():
    alone, among = uniforms([7], 5), uniforms([3, 7, 9], 9)
    assert torch.equal(alone[0], among[1, :5])
    assert not torch.equal(among[0], among[1])
    assert len({seed_of(1, 2, i) for i in range(1000)}) == 1000


def test_what_comes_before_the_draw_still_limits_it():
    processor = InverseSampling(uniforms([1, 2], 4))
    scores = torch.tensor([[0.0, -torch.inf, -torch.inf], [-torch.inf, -torch.inf, 0.0]])
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert processor(ids, scores).argmax(-1).tolist() == [0, 2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.trainer(tmp_path_factory.mktemp("draws"))


def complete(made, numbers, **options):
    seeds = [seed_of(3, number) for number in numbers]
    found = made.complete([PROMPTS[number % 4] for number in numbers], seeds=seeds, **options)
    return dict(zip(numbers, [item.completion_ids for item in found], strict=True))


def test_completions_depend_neither_on_batch_size_nor_on_order_nor_on_the_global_seed(made):
    whole = complete(made, range(24))
    assert len({tuple(ids) for ids in whole.values()}) > 8
    torch.manual_seed(99)
    parts = complete(made, [23, 4, 11], together=2) | complete(made, range(24), together=5)
    assert parts == whole
    assert complete(made, [11])[11] == whole[11]


def test_the_global_random_state_is_as_before(made):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    complete(made, range(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_temperature_and_greedy_decoding_keep_their_meaning(made):
    greedy = complete(made, range(8), temperature=0)
    assert greedy[0] == greedy[4]
    cold = complete(made, range(8), temperature=1e-4)
    assert cold == greedy
    hot = complete(made, range(40), temperature=3.0)
    assert len({tuple(ids) for ids in hot.values()}) > len(
        {tuple(ids) for ids in complete(made, range(40)).values()}
    )


def test_a_model_samples_as_before_after_a_drawing():
    model = AutoModelForCausalLM.from_pretrained(tiny.BASE)
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE, padding_side="left")
    inputs = tokenizer(PROMPTS, return_tensors="pt")
    own = model._get_logits_processor
    with drawing(model, [1, 2, 3, 4], 4):
        model.generate(**inputs, max_new_tokens=4, do_sample=True)
    assert model._get_logits_processor == own
