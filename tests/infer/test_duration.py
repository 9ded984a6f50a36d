"""What a run says of the time that it will take, and a slow model of its cause."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import Spline
from pyro.infer import MCMC

import pyro_jarzynski as pj
from pyro_jarzynski.errors import SlowModelWarning
from pyro_jarzynski.infer.time_limit import TimeLimit
from pyro_jarzynski.infer.time_words import in_words

pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")
NUM, CHAINS = 100, 4
# Walkers in islands, pilot and scout, and gradients of each in one dimension.
EXPECTED = NUM * (CHAINS + 2) * 26


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3e-5, "30 µs"),
        (9.62e-4, "960 µs"),
        (0.0344, "34 ms"),
        (1.9, "1900 ms"),
        (61.0, "61 s"),
        (130.0, "2.2 minutes"),
        (9000.0, "2.5 hours"),
        (1e6, "12 days"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


class Clock:
    """A clock that goes on with the walkers that are evaluated."""

    def __init__(self, seconds):
        self.seconds, self.num = seconds, 0

    def __call__(self):
        return self.seconds * self.num

    def log_likelihood(self, x):
        self.num += len(x)
        return -50 * (x - 1).square().sum(1)


def run(monkeypatch, seconds, **settings):
    """Run a sampler of which each gradient of a walker takes some seconds."""
    clock = Clock(seconds)
    monkeypatch.setattr(TimeLimit, "clock", clock)
    target = pj.Target(
        lambda x: dist.Normal(0.0, 1.0).log_prob(x).sum(1),
        clock.log_likelihood,
        lambda n, g: torch.randn(n, 1, generator=g),
    )
    options = {"num_walkers": NUM, "num_chains": CHAINS, "progress": False} | settings
    return pj.AnnealedSMC(target, **options).run()


def told(capsys):
    return re.findall("This run is expected to take about (.*?),.*: (.*?) for", capsys)


@pytest.mark.parametrize("chunk_size", [None, 10])
def test_a_long_run_says_once_how_long_it_will_take(monkeypatch, capsys, chunk_size):
    run(monkeypatch, 0.01, chunk_size=chunk_size)
    text = capsys.readouterr().err
    assert told(text) == [(in_words(0.01 * EXPECTED), "10 ms")]
    assert text.count("\n") == 1
    assert "600 walkers" in text
    assert "some 26 moves" in text


def test_a_run_of_less_than_a_minute_says_nothing(monkeypatch, capsys):
    run(monkeypatch, 5 / EXPECTED)
    assert capsys.readouterr().err == ""
    run(monkeypatch, 61 / EXPECTED)
    assert len(told(capsys.readouterr().err)) == 1


def test_a_run_that_takes_longer_than_expected_says_so(monkeypatch, capsys):
    """One that is already long is expected to take as long again."""
    result = run(
        monkeypatch, 40 / EXPECTED, num_moves=25, schedule=pj.AdaptiveTempering(0.99)
    )
    assert result.seconds > 60
    ((words, _),) = told(capsys.readouterr().err)
    assert words.endswith(" s")
    assert float(words[:-2]) < result.seconds


def test_a_time_limit_is_part_of_what_is_told(monkeypatch, capsys):
    run(monkeypatch, 0.01, max_seconds=40.0)
    assert "`max_seconds` ends it after 40 s." in capsys.readouterr().err
    run(monkeypatch, 0.01)
    assert "`max_seconds` ends it." in capsys.readouterr().err


def test_leapfrog_steps_count(monkeypatch, capsys):
    run(monkeypatch, 0.01, kernel=pj.HMC(0.1, 5))
    ((words, _),) = told(capsys.readouterr().err)
    assert words == in_words(0.05 * EXPECTED)


def test_runs_that_go_on_have_no_estimate(monkeypatch, capsys, tmp_path):
    kept = pj.Checkpoints(tmp_path, every=1, resume=True)
    whole = run(monkeypatch, 0.01, checkpoints=kept)
    assert len(told(capsys.readouterr().err)) == 1
    again = run(monkeypatch, 0.01, checkpoints=kept)
    assert again.log_evidence == whole.log_evidence
    assert capsys.readouterr().err == ""


def branching(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    shift = 0.0 if float(m.detach()) < 1e9 else 1.0
    pyro.sample("y", dist.Normal(m + shift, 1.0), obs=y)


Y = torch.tensor(0.3)


def slow_warning(model, **settings):
    options = {"num_walkers": 4, "num_chains": 3, "progress": False} | settings
    with pytest.warns(SlowModelWarning) as found:
        pj.AnnealedSMC(model, **options).run(Y)
    (warning,) = [w for w in found if w.category is SlowModelWarning]
    assert warning.filename == __file__
    return str(warning.message)


def test_a_slow_model_is_told_which_line_to_change(capsys):
    text = slow_warning(branching)
    line = branching.__code__.co_firstlineno + 2
    assert "`shift = 0.0 if float(m.detach()) < 1e9 else 1.0` in test_duration.py" in text
    assert f"line {line}: write it without branches on latents" in text
    # 4 walkers on each of 3 islands, in a pilot, and in a scout.
    assert re.search(
        r"(ms|s) for each gradient of a walker, and about \d.* for a run of 20", text
    )
    assert capsys.readouterr().err == ""


def test_code_of_a_library_is_not_told_to_the_user_as_his_own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spline = Spline(2)

    def model(y):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        z = pyro.sample("z", dist.TransformedDistribution(base, [spline]))
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y)

    text = slow_warning(model)
    assert re.search(r"`vmap` fails in transforms/spline.py, line \d+ \(`_?\w+`\)", text)
    assert "which is no part of your program: use another distribution" in text
    assert "write it" not in text


def test_walkers_that_share_something_are_told_of_it():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m * Together.apply(m), 1.0), obs=y)

    text = slow_warning(model)
    assert "vmap: its numbers differ from those of one walker at a time" in text
    assert "Walkers must not share anything that changes" in text


class Together(torch.autograd.Function):
    """One for a walker alone, and two for each of several."""

    @staticmethod
    def forward(x):
        return torch.full_like(x, 1.0 + (x.numel() > 1))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info, in_dims, x):
        return 2 * torch.ones_like(x), in_dims[0]


def test_warm_up_of_mcmc_has_an_estimate(monkeypatch, capsys):
    runs = []

    def model(y):
        runs.append(0)
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 0.1), obs=y)

    monkeypatch.setattr(TimeLimit, "clock", lambda: 30.0 * len(runs))
    kernel = pj.JarzynskiKernel(model, num_walkers=20, seed=0)
    MCMC(kernel, 3, warmup_steps=2, disable_progbar=True).run(Y)
    assert len(told(capsys.readouterr().err)) == 1
