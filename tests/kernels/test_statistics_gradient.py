"""Gradients of statistics in closed form against autograd through their definitions, and through the head."""

import pytest
import torch
from torch import Tensor

from rlvr.kernels import chunked
from rlvr.kernels.statistics import gradient, of_logits
from tests.kernels import cases

NAMES = [
    f"{kind}:{parameters}"
    for kind in ("top_p_entropy", "nucleus_entropy")
    for parameters in ("0.8", "0.8:4", "0.05", "1", "1:3", "0.999", "0.8:1")
]


def some_logits(scale: float, rows: int = 64, size: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)


def by_autograd(logits: Tensor, name: str) -> Tensor:
    logits = logits.clone().requires_grad_()
    taken = torch.zeros(len(logits), dtype=torch.long)
    (found,) = torch.autograd.grad(of_logits(logits, taken, [name])[name].sum(), logits)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 0.1, 2.0, 20.0])
def test_the_closed_form_is_autograd_of_the_definition(name: str, scale: float) -> None:
    logits = some_logits(scale)
    found = gradient(logits.log_softmax(-1), name)
    torch.testing.assert_close(found, by_autograd(logits, name), rtol=1e-9, atol=1e-12)


# of few tokens, and not of all or one: there rounding decides which is the last of the set, or all that is left
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith((":0.8", ":0.8:4"))])
def test_the_closed_form_is_exact_in_float32(name: str) -> None:
    logits = some_logits(2.0).float()
    truth = by_autograd(logits.double(), name)
    plain = cases.relative(by_autograd(logits, name), truth)
    found = cases.relative(gradient(logits.log_softmax(-1), name), truth)
    assert found <= min(2 * plain + cases.TINY, cases.GRADIENT_BAR)


@pytest.mark.parametrize("name", NAMES)
def test_moving_all_logits_together_changes_nothing(name: str) -> None:
    found = gradient(some_logits(2.0).log_softmax(-1), name)
    torch.testing.assert_close(found.sum(-1), torch.zeros(len(found), dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_cannot_be_have_no_gradient(name: str) -> None:
    logits = some_logits(2.0)
    logits[:, ::4] = -1e30
    found = gradient(logits.log_softmax(-1), name)
    assert found[:, ::4].eq(0).all()
    left = torch.ones(9, dtype=torch.bool)
    left[::4] = False
    torch.testing.assert_close(found[:, left], gradient(logits[:, left].log_softmax(-1), name))


def test_a_set_of_one_token_has_no_entropy_to_change() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0]], dtype=torch.float64)
    for name in ("top_p_entropy:0.8", "nucleus_entropy:0.8", "nucleus_entropy:1:1"):
        assert gradient(logits.log_softmax(-1), name).abs().max() <= 1e-12


def test_all_tokens_of_the_nucleus_are_the_whole_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    # a set of all tokens: its entropy is the row's
    monkeypatch.setattr(chunked, "ROWS", 4)
    monkeypatch.setattr(chunked, "COLUMNS", 16)
    monkeypatch.setattr(chunked, "WHOLE_ROWS", 3 * 65)
    plain = cases.case(10, 65, 8, bias=True, rank=2, logprob_gradient=False)
    name = "nucleus_entropy:1"
    assert plain.of_entropies is not None
    as_statistic = cases.Case(
        plain.tensors,
        plain.targets,
        {"statistics": (name,)},
        of_statistics={name: plain.of_entropies},
    )
    one, other = cases.run(as_statistic), cases.run(plain)
    torch.testing.assert_close(one.result.statistics[name], other.result.entropies)
    torch.testing.assert_close(one.gradients, other.gradients)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("name", ["top_p_entropy:0.8", "nucleus_entropy:0.9:40"])
def test_through_the_head_it_is_scaled_as_the_logits_are(softcap: float | None, name: str) -> None:
    warmth = torch.linspace(0.6, 1.5, 12, dtype=torch.float64)
    options = {"softcap": softcap, "temperature": warmth, "logit_scale": 1.3, "statistics": (name,)}
    inputs = cases.case(12, 65, 8, bias=True, rank=2, logprob_gradient=False, **options)
    cases.assert_exact(inputs, dtype=torch.float64)
    cases.assert_exact(inputs)


def test_a_row_with_a_gradient_of_a_statistic_alone_is_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "nucleus_entropy:0.8"
    inputs = cases.case(12, 65, 8, dead=0.5, statistics=(name,), logprob_gradient=False)
    inputs = cases.Case(
        *(inputs.tensors, inputs.targets, inputs.options),
        of_statistics=inputs.of_statistics,
    ).to(torch.float32)
    live = inputs.of_statistics[name] != 0
    tensors = cases.leaves(inputs)
    result = cases.call(inputs, tensors, "chunked")
    work = cases.Work(monkeypatch)
    cases.loss(inputs, result).backward()
    assert work.taken() == 2 * int(live.sum()) * 65 * 8  # the logits were kept
    assert tensors["hidden"].grad is not None
    assert torch.equal(tensors["hidden"].grad.ne(0).any(-1), live)
