"""Bases whose densities end: walkers stay inside, and flat bases are refused.

The table of all distributions, forms and kernels is `tests/benchmarks/bases.py`.
"""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_jarzynski as pj
from pyro_jarzynski.core.compiled_moves import CompiledEnergy
from pyro_jarzynski.distributions.parts import without_validation
from pyro_jarzynski.distributions.supports import bijection
from pyro_jarzynski.ebm.base_energy import energy_of
from pyro_jarzynski.errors import ArgumentError, NonFiniteEnergyWarning, StepSizeWarning
from tests.benchmarks.bases import FLAT, KERNELS, Flat, cases, moved
from tests.distributions import ARRAYS, COUNT_ARRAYS, COUNTS, INF, OTHERS, SCALARS
from tests.identities import Z_ONE


# Pyro and torch draw from the global generator.
@pytest.fixture(autouse=True)
def _own_stream():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# Two-sided false-alarm rate 2e-9 for one statistic, 1e-6 for all of the first test.
Z_ALL = 6.0
# Densities that are integrals, and means by a million draws, take seconds each.
SLOW = {"Stable", "StableWithLogProb"}
BOUNDED = {
    name: entry
    for name, entry in SCALARS.items()
    if name not in SLOW and (entry.low > -INF or entry.high < INF)
}


def model_of(base):
    size = torch.Size(base.event_shape).numel()
    return pj.EnergyModel(Flat(max(1, size)), base)


def refusal(base):
    with pytest.raises(ArgumentError) as found:
        model_of(base)
    return str(found.value)


@pytest.mark.parametrize("name", BOUNDED)
def test_walkers_of_a_base_alone_are_draws_of_it(name):
    """Inside, with the moments of the base, for all forms of all bounded numbers."""
    for form, case in cases(name).items():
        found = moved(case, KERNELS["MALA"], 1000, 3, seed=0)
        assert not found.error, (form, found.error)
        assert found.inside == 1, form
        assert found.z < Z_ALL, form


@pytest.mark.parametrize(
    "name", ["Exponential", "Uniform", "HalfNormal", "GeneralizedPareto"]
)
@pytest.mark.parametrize("kind", ["ULA", "underdamped"])
def test_walkers_of_unadjusted_kernels(name, kind):
    """As above where the curvature is bounded at the end; false alarms 1e-7 in all."""
    for form, case in cases(name).items():
        found = moved(case, KERNELS[kind], 2000, 5, seed=1)
        assert not found.error, (form, found.error)
        assert found.inside == 1, form
        assert found.z < Z_ALL, form


@pytest.mark.parametrize("kind", ["ULA", "underdamped"])
def test_unbounded_curvature_is_warned_of(kind):
    """The weights of unadjusted kernels have infinite variance at such an end."""
    for base in (
        dist.Gamma(torch.full((2,), 2.0), 3.0),
        dist.Weibull(torch.full((2,), 2.0), 1.5),
    ):
        with pytest.warns(StepSizeWarning, match="infinite variance. Use .* or MALA"):
            pj.LikelihoodTracker(
                model_of(base.to_event(1)), num_walkers=500, kernel=KERNELS[kind]
            )


@pytest.mark.parametrize("name", ["Exponential", "Uniform", "HalfNormal"])
def test_a_wall_alone_is_no_curvature(name):
    """No warning, though differences of gradients across the wall are large."""
    base = SCALARS[name].make().expand([3]).to_event(1)
    pj.LikelihoodTracker(model_of(base), num_walkers=500, kernel=pj.ULA(0.1))


@pytest.mark.parametrize("name", BOUNDED)
def test_energy_at_and_beyond_the_ends(name):
    """Plus infinity beyond, minus the log-density inside, and no NaN at the ends."""
    entry = BOUNDED[name]
    base = entry.make()
    energy = energy_of(base)
    ends = [(x, sign) for x, sign in ((entry.low, -1), (entry.high, 1)) if abs(x) < INF]
    beyond = [x + sign * far for x, sign in ends for far in (1e-3, 1.0, 1e3)]
    assert (energy(torch.tensor(beyond)) == math.inf).all()
    x = torch.tensor([float(x) for x, _ in ends]).requires_grad_()
    values = energy(x)
    assert not values.isnan().any()
    assert (values > -math.inf).all()
    if values.requires_grad:
        (slope,) = torch.autograd.grad(values.sum(), x)
        assert torch.isfinite(slope).all()
    inside = energy.draw(64)
    torch.testing.assert_close(energy(inside), -without_validation(base).log_prob(inside))


FLAT_ENTRIES = {
    name: entry
    for name, entry in {**ARRAYS, **COUNTS, **COUNT_ARRAYS, **OTHERS}.items()
    if name in (*FLAT, *COUNTS, *COUNT_ARRAYS, *OTHERS)
}


@pytest.mark.parametrize("name", FLAT_ENTRIES)
def test_bases_without_a_density_are_refused(name):
    base = FLAT_ENTRIES[name].make()
    told = refusal(base)
    assert told.startswith("`base` must")
    assert any(advice in told for advice in ("Use ", "use ", "Leave out "))
    with pytest.raises(ArgumentError, match="`base` must"):
        model_of(base.expand([2]).to_event(1) if name == "Delta" else base)


@pytest.mark.filterwarnings("ignore:Singular sample detected")
@pytest.mark.parametrize("name", [n for n in FLAT if n != "VonMises3D"])
def test_advice_for_sets_of_measure_zero(name):
    """A base in unconstrained coordinates, which has a density in their space."""
    base = FLAT_ENTRIES[name].make()
    told = refusal(base)
    if "supports.bijection(base).inv" not in told:
        assert name in {"ExpRelaxedCategorical", "ProjectedNormal"}
        assert "angles" in told
        return
    to = bijection(base).inv
    model = model_of(dist.TransformedDistribution(base, [to]))
    tracker = pj.LikelihoodTracker(model, num_walkers=64, kernel=pj.MALA(0.1))
    tracker.update()
    assert torch.isfinite(model(tracker.sample(16))).all()


@pytest.mark.parametrize("kernel", [pj.ULA(0.1), pj.MALA(0.1)], ids=["ULA", "MALA"])
def test_compiled_moves_are_the_plain_ones(kernel, compilations):
    """Some moves of `Gamma(1.5, 1)` are turned back or refused at the wall."""
    base = dist.Gamma(torch.full((2,), 1.5, dtype=torch.float64), 1.0).to_event(1)
    model = pj.EnergyModel(pj.MLP([2, 8]).double(), base)
    with torch.no_grad():
        model.net.layers[-1].weight += 0.3

    def carried(energy):
        generator = torch.Generator().manual_seed(0)
        walkers = pj.init(model.draw(400, generator), model)
        for _ in range(3):
            walkers, _ = kernel.move(walkers, energy, pj.Tools(generator))
        return walkers

    compiled = CompiledEnergy(model)
    plain, found = carried(model), carried(compiled)
    assert compiled.codes
    assert compilations
    assert (plain.position > 0).all()
    torch.testing.assert_close(found.position, plain.position)
    torch.testing.assert_close(found.log_weight, plain.log_weight)


def test_a_network_that_is_not_finite_outside():
    """`log x` is NaN for negative numbers, where the model has no density."""

    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x.log())

    model = pj.EnergyModel(Log(), dist.Exponential(torch.ones(2)).to_event(1))
    with torch.no_grad():
        model.net.layer.weight += 0.1
    x = torch.tensor([[1.0, 2.0], [-1.0, 1.0]], requires_grad=True)
    values = model(x)
    assert torch.isfinite(values[0])
    assert values[1] == math.inf
    (slope,) = torch.autograd.grad(values[0], x)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("kernel", [pj.MALA(0.3), pj.ULA(0.1)], ids=["MALA", "ULA"])
@pytest.mark.parametrize("name", ["Exponential", "Uniform"])
def test_annealing_from_a_base_with_walls(name, kernel):
    """`log Z` of fresh walkers with `net(x) = x`: exact values; false alarms 1e-4."""
    base, exact = {
        "Exponential": (dist.Exponential(torch.ones(1)), math.log(1 / 2)),
        "Uniform": (dist.Uniform(torch.zeros(1), 1.0), math.log(1 - math.exp(-1))),
    }[name]
    model = pj.EnergyModel(nn.Linear(1, 1), base.to_event(1))
    tracker = pj.LikelihoodTracker(model, num_walkers=2000, kernel=kernel)
    with torch.no_grad():
        model.net.weight.fill_(1.0)
        model.net.bias.zero_()
    tracker.update()
    found = tracker.renew(num_temperatures=10, num_moves=2)
    error = tracker.log_normalizer_error
    assert abs(tracker.log_normalizer - exact) < Z_ONE * error, found


def exponential_family(rate=2.0):
    """Data of `Exponential(2)`, and a base `Exponential(1)`: `net(x) = x + const`."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2000, 1, generator=generator).log().neg() / rate
    return pj.EnergyModel(nn.Linear(1, 1), dist.Exponential(torch.ones(1)).to_event(1)), x


@pytest.mark.parametrize("kernel", [pj.MALA(0.3), pj.ULA(0.1)], ids=["MALA", "ULA"])
def test_training_and_its_normaliser(kernel, tmp_path):
    """The model is `e^{-a x - b} / Z` with `Z = e^{-b} / (1 + a)`; false alarms 1e-4."""
    model, x = exponential_family()
    learner = pj.JarzynskiLearner(
        model, torch.optim.Adam(model.parameters(), 0.05), kernel=kernel, num_walkers=2000
    )
    learner.fit(x, 40)
    slope, level = (float(p.detach()) for p in (model.net.weight, model.net.bias))
    assert slope > 0.3
    exact = -level - math.log1p(slope)
    audit = learner.audit
    assert abs(audit.log_normalizer - exact) < Z_ONE * audit.log_normalizer_error
    draws = model.distribution().sample((500,))
    assert (draws > 0).all()
    with pytest.raises(ValueError, match="within the support"):
        model.distribution().log_prob(-draws[:3])
    assert model(-draws[:3]).tolist() == [math.inf] * 3
    with pytest.warns(NonFiniteEnergyWarning, match="density zero at `x` in 3 of 3 rows"):
        assert math.isinf(learner.nll(-x[:3]).nll)


def test_a_model_on_another_device_and_dtype():
    model = model_of(dist.Exponential(torch.ones(2)).to_event(1))
    assert copy.deepcopy(model).to("meta").base_energy.point.is_meta
    x = torch.tensor([[1.0, 2.0], [-1.0, 1.0]], dtype=torch.float64)
    assert model.double()(x).tolist() == [3.0, math.inf]


def test_support_of_a_distribution_and_a_copy():
    model, _ = exponential_family()
    pj.Followers(model, num_walkers=64, audit_walkers=64)
    law = model.distribution()
    assert not law.support.check(torch.tensor([[-1.0]])).any()
    double = copy.deepcopy(model.base_energy)
    assert double(torch.tensor([[-1.0]])).tolist() == [math.inf]


@pytest.mark.parametrize("name", ["RelaxedBernoulli", "Beta", "Kumaraswamy"])
def test_draws_that_a_transform_rounds_to_an_end(name):
    """They are moved inside: no draw of 2e5 loses its weight, and no warning is given."""
    case = cases(name)["transformed independent"]
    energy = energy_of(case.base)
    plain = case.base.sample(torch.Size([200_000]))
    drawn = energy.draw(200_000)
    assert torch.isfinite(energy(drawn)).all()
    if name == "RelaxedBernoulli":
        assert (energy(plain) == math.inf).any()


def test_a_base_that_cannot_be_evaluated_is_refused():
    base = ARRAYS["GaussianScaleMixture"].make()
    assert "Use another base" in refusal(base)


def test_draws_that_overflow_are_reported():
    """Half of the draws are infinite in float32: an error; one in 300: a warning."""
    base = dist.LogNormal(torch.full((1,), 88.7), 1.0).to_event(1)
    told = refusal(base)
    assert "finite density" in told or "own draws" in told
    assert "float64" in told
    with pytest.warns(NonFiniteEnergyWarning, match="They have weight zero"):
        # The probes that a model is checked at are draws as well.
        model = model_of(dist.LogNormal(torch.full((1,), 60.0), 10.0).to_event(1))
    with pytest.warns(NonFiniteEnergyWarning, match="They have weight zero"):
        model.draw(2000, torch.Generator().manual_seed(0))
