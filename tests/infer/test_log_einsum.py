"""Sums over discrete latents: written out as one product, or too large for that."""

import opt_einsum
import pytest
import torch

from pyro_jarzynski.infer import drawn_einsum, log_einsum
from tests.scenarios import FLOAT
from tests.seeds import seeded

EQUATIONS = ["ab,bc->ac", "abc,b,cd->d", "ab,ab->", "ba,b->a", "ab->b"]
# Numbers that the exponential function does not hold, and a factor that is impossible.
SIZES = {"a": 3, "b": 4, "c": 2, "d": 5}


def operands(equation):
    generator = seeded(0)
    found = []
    for names in equation.split("->")[0].split(","):
        shape = [SIZES[name] for name in names]
        found.append(torch.randn(shape, dtype=FLOAT, generator=generator) + 1000)
    found[0].view(-1)[0] = -torch.inf
    return found


def by_hand(equation, tensors):
    """Return the sum by its definition, over all symbols at once."""
    inputs, output = equation.split("->")
    order = output + "".join(sorted(set(inputs) - set(output) - {","}))
    total = torch.zeros((), dtype=FLOAT)
    for names, tensor in zip(inputs.split(","), tensors, strict=True):
        total = total + log_einsum.aligned(tensor, names, order)
    summed = list(range(len(output), len(order)))
    return total.logsumexp(summed) if summed else total


@pytest.mark.parametrize("most", [100_000, 0], ids=["small", "large"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_sums_and_their_gradients(equation, most, monkeypatch):
    monkeypatch.setattr(log_einsum, "MAX_PRODUCT", most)
    found, expected = [], []
    for compute, into in ((log_einsum.einsum, found), (by_hand, expected)):
        tensors = [t.requires_grad_() for t in operands(equation)]
        given = (
            (equation, *tensors) if compute is log_einsum.einsum else (equation, tensors)
        )
        value = compute(*given)
        finite = value[torch.isfinite(value)]
        into.extend([value.detach(), *torch.autograd.grad(finite.sum(), tensors)])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.where(~other.isnan(), 0.0))


@pytest.mark.parametrize("most", [100_000, 0], ids=["small", "large"])
def test_sums_can_be_mapped(most, monkeypatch):
    monkeypatch.setattr(log_einsum, "MAX_PRODUCT", most)
    left, right = operands("ab,bc->ac")
    many = torch.stack([left, left + 1, left - 2])
    mapped = torch.func.vmap(lambda x: log_einsum.einsum("ab,bc->ac", x, right))(many)
    alone = torch.stack([log_einsum.einsum("ab,bc->ac", x, right) for x in many])
    torch.testing.assert_close(mapped, alone)


def test_as_a_backend_it_transposes():
    (value,) = operands("ab->b")
    backend = "pyro_jarzynski.infer.log_einsum"
    found = opt_einsum.contract("ab->ba", value, backend=backend)
    assert torch.equal(found, value.mT)


@pytest.mark.parametrize("backend", [log_einsum, drawn_einsum])
def test_nothing_to_sum_is_a_copy(backend):
    (value,) = operands("ab->b")
    found = backend.einsum("ab->ab", value)
    assert torch.equal(found, value)
    assert found.data_ptr() != value.data_ptr()
