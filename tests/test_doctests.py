"""The examples in the docstrings of public names do what they say.

Each finds the package as `pj`, beside `math`, `torch`, `pyro` and `dist`, as in the README.
"""

import doctest
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from tests.test_readme import public_names

GLOBALS = {"pj": pj, "math": math, "torch": torch, "pyro": pyro, "dist": dist}
FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples(name):
    """Return the examples of a public name and of its methods."""
    found = FINDER.find(getattr(pj, name), name, globs=GLOBALS)
    return [test for test in found if test.examples]


WITH_EXAMPLES = sorted(name for name in public_names() if examples(name))


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    told = []
    # What an example draws from torch's global generator is the same each time.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for test in examples(name):
            runner.run(test, out=told.append)
    pyro.clear_param_store()
    assert not runner.failures, "".join(told)
