"""Digests tell apart what has other bits, and nothing else."""

import math

import pytest
import torch

from pyro_jarzynski.core.digests import digest, fingerprint, versions

ONE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ONE, ONE.double()),
        (ONE, ONE[:, None]),
        (ONE, torch.nextafter(ONE, 2 * ONE)),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (1, 1.0),
        (0.1, math.nextafter(0.1, 1)),
        ([ONE, 3], [3, ONE]),
        ([[1], 2], [[1, 2]]),
        ({"a": ONE}, {"b": ONE}),
        ("12", 12),
        (None, 0),
    ],
)
def test_other_bits_have_another_digest(first, second):
    assert digest(first) != digest(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ONE, ONE.clone().requires_grad_()),
        (torch.ones(3, 2).mT, torch.ones(2, 3)),
        (torch.tensor([True, False]), torch.tensor([True, False])),
        (torch.full((2,), math.nan), torch.full((2,), math.nan)),
        (torch.empty(0), torch.empty(0)),
        ({"a": [ONE, (1, None)]}, {"a": [ONE.clone(), (1, None)]}),
        (object(), object()),
    ],
)
def test_the_same_bits_have_the_same_digest(first, second):
    assert digest(first) == digest(second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_bit_changes_the_fingerprint(dtype):
    x, y = torch.ones(3, 2, dtype=dtype), torch.zeros((), dtype=dtype)
    known = fingerprint([x, y])
    assert fingerprint([x.clone(), y.clone()]) == known
    nearest = torch.nextafter(x, 2 * x)
    for others in ([torch.where(x.cumsum(0) == 2, nearest, x), y], [x, -y], [y, x], [x]):
        assert fingerprint(others) != known


def test_versions_are_those_of_package_and_torch():
    assert versions()["torch"] == torch.__version__
    assert "pyro_jarzynski" in versions()
