"""Samplers and learners in copies, and in other processes."""

import copy
import multiprocessing
import os
import pickle
import threading

import pytest

from pyro_jarzynski.core.alone import ALONE
from pyro_jarzynski.errors import JarzynskiError, ModelError
from tests.ebm.models import mixture_data
from tests.faults.runs import DATA, RUNS, learner, parameters_of, sampler


def evidence_of(smc):
    return smc.run(DATA).log_evidence_per_chain.tolist()


def trained_on(found):
    found.fit(mixture_data(50).float(), 6)
    return parameters_of(found)


HELD = {"AnnealedSMC": (sampler, evidence_of), "JarzynskiLearner": (learner, trained_on)}
held = pytest.mark.parametrize(("make", "use"), HELD.values(), ids=HELD)


@held
@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_gives_the_same_bits(make, use, way):
    """And leaves the original where it was."""
    original = make()
    other = way(original)
    found = use(other)
    assert use(original) == found == use(make())


def test_a_copy_in_mid_course_goes_its_own_way():
    original = learner()
    trained_on(original)
    other = copy.deepcopy(original)
    before = parameters_of(original)
    found = trained_on(other)
    assert parameters_of(original) == before
    assert trained_on(original) == found


def in_fork(function):
    """Return what a function returns in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, repr(function()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        found = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    return eval(found)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@held
def test_a_fork_that_holds_one_gives_the_same_bits(make, use):
    """Autograd has been used before, as it has in most programs that fork."""
    assert use(make()) is not None
    found = make()
    assert in_fork(lambda: use(found)) == use(found)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_fork_in_the_midst_of_another_thread_is_told(run):
    """Pyro's handlers and torch's generator are then as that thread had them."""
    held, ended = threading.Event(), threading.Event()

    def hold():
        with ALONE:
            held.set()
            ended.wait()

    def told():
        try:
            run(1)
        except JarzynskiError as error:
            return str(error)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        found = in_fork(told)
    finally:
        ended.set()
        thread.join()
    assert "forked while another thread was running an inference" in found
    # Where it has ended, a fork is as good as any other.
    assert in_fork(lambda: run(1)) == run(1)


def answer(sent, queue):
    queue.put([use(found) for use, found in sent])


def test_a_new_process_that_is_sent_one_gives_the_same_bits():
    """Both at once, since to start Python and torch takes seconds."""
    context = multiprocessing.get_context("spawn")
    sent = [(use, make()) for make, use in HELD.values()]
    queue = context.Queue()
    process = context.Process(target=answer, args=(sent, queue))
    process.start()
    found = queue.get(timeout=1800)
    process.join()
    assert process.exitcode == 0
    assert found == [use(make()) for make, use in HELD.values()]


def test_a_result_says_why_it_cannot_be_sent():
    smc = sampler()
    result = smc.run(DATA)
    with pytest.raises(ModelError, match=r"cannot be pickled. Send what `get_samples\(\)`"):
        pickle.dumps(smc)
    assert copy.deepcopy(result).log_evidence == result.log_evidence
    draws = pickle.loads(pickle.dumps(result.get_samples()))
    assert draws["m"].tolist() == result.get_samples()["m"].tolist()


def test_runs_in_one_process_do_not_know_of_each_other():
    first = {name: run(1) for name, run in RUNS.items()}
    assert {name: run(1) for name, run in reversed(RUNS.items())} == first
