"""Runs beside each other in one process: in threads, or by turns."""

import threading
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine import runtime

from pyro_jarzynski import AnnealedSMC
from tests.ebm.models import mixture_data
from tests.faults.runs import RUNS, inferred, learner, parameters_of


def in_threads(*calls):
    """Make all calls at once, and return what they returned, or raised."""
    found = [None] * len(calls)

    def make(number):
        try:
            found[number] = calls[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=make, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_runs_in_threads_have_the_bits_of_runs_alone(run):
    """Warnings, Pyro's handlers and torch's generator are as before."""
    alone = [run(1), run(2)]
    generator, shown = torch.get_rng_state(), warnings.showwarning
    filters = list(warnings.filters)
    assert in_threads(lambda: run(1), lambda: run(2)) == alone
    assert torch.equal(torch.get_rng_state(), generator)
    assert (warnings.showwarning, list(warnings.filters)) == (shown, filters)
    assert runtime._PYRO_STACK == []


def test_training_and_inference_in_threads():
    runs = list(RUNS.values())
    alone = [run(3) for run in runs]
    assert in_threads(*(lambda run=run: run(3) for run in runs)) == alone


def test_a_failure_in_one_thread_leaves_the_other_alone():
    calls = []

    def fails():
        pyro.sample("m", dist.Normal(0.0, 1.0))
        calls.append(1)
        if len(calls) == 20:
            raise KeyError("mine")

    run = AnnealedSMC(fails, num_walkers=64, progress=False).run
    error, found = in_threads(run, lambda: inferred(1))
    assert isinstance(error, KeyError)
    assert found == inferred(1)
    assert runtime._PYRO_STACK == []


def test_learners_that_take_turns_have_the_bits_of_learners_alone():
    data = mixture_data(50, seed=4).float()
    alone = []
    for seed in (1, 2):
        learner_alone = learner(seed)
        for _ in range(4):
            learner_alone.fit(data, 3)
        alone.append(parameters_of(learner_alone))
    both = [learner(1), learner(2)]
    for _ in range(4):
        for each in both:
            each.fit(data, 3)
    assert [parameters_of(each) for each in both] == alone
