"""An energy-based model as a distribution of Pyro: prior, likelihood, latent."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal

import pyro_jarzynski as pj
from pyro_jarzynski.ebm.gradient import walker_gradient
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, NonFiniteEnergyError

MEANS = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
Z = torch.tensor([0.0, -1.0])
DATA = torch.tensor([[0.3, -0.2], [1.9, 1.2], [-2.2, 0.1], [2.4, 0.7]])


@pytest.fixture(autouse=True)
def _pyro_is_as_it_was():
    pyro.clear_param_store()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    pyro.clear_param_store()


def mixture(**settings):
    """A model of closed form, followed by walkers."""
    model = pj.GaussianMixtureEnergy(MEANS, Z)
    pj.Followers(model, **({"num_walkers": 400, "audit_walkers": 300} | settings))
    return model


def fitted(model, data=DATA, elbo=None, **settings):
    """The SVI of a model of data, and how many updates its walkers have seen."""

    def program(x):
        pyro.module("energy", model)
        with pyro.plate("data", len(x)):
            pyro.sample("x", model.distribution(), obs=x)

    optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 1e-3}), model, **settings)
    return SVI(program, lambda x: None, optim, elbo or Trace_ELBO()), data


def steps(model):
    clouds = model.followers.cloud, model.followers.audit_cloud
    return [int(cloud.walkers.steps) for cloud in clouds]


def exact(model):
    """The law of the mixture as Pyro has it."""
    components = dist.Normal(model.means.detach(), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(model.masses()), components)


class TestDistribution:
    def test_density_is_that_of_the_model(self):
        model = mixture()
        found = model.distribution().log_prob(DATA)
        # At the start log Z is exact.
        torch.testing.assert_close(found, exact(model).log_prob(DATA))

    def test_gradient_is_that_of_data_minus_that_of_weighted_walkers(self):
        model = mixture()
        parameters = list(model.parameters())
        loss = -model.distribution().log_prob(DATA).sum()
        found = torch.autograd.grad(loss, parameters)
        ours = torch.autograd.grad(model(DATA).sum(), parameters)
        theirs = walker_gradient(model, model.followers.cloud.walkers, parameters)
        for slope, data, walkers in zip(found, ours, theirs, strict=True):
            torch.testing.assert_close(slope, data - len(DATA) * walkers)

    def test_gradient_by_the_value_asks_no_walker(self, monkeypatch):
        model = mixture()
        law = model.distribution()
        monkeypatch.setattr("pyro_jarzynski.ebm.distribution.walker_gradient", None)
        x = DATA.clone().requires_grad_()
        (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
        expected = torch.func.grad(lambda x: exact(model).log_prob(x).sum())(DATA)
        torch.testing.assert_close(slope, expected)

    def test_draws_have_the_weights_of_the_audit(self):
        """Share of one mode over 20,000 draws: 5 standard errors, 1e-6 a run."""
        model = mixture()
        walkers = model.followers.audit_cloud.walkers
        heavy = walkers.position[:, 0] < 0
        tilted = torch.where(heavy, 1.0, 0.0).double()
        model.followers.audit_cloud.walkers = walkers._replace(log_weight=tilted)
        share = float((model.followers.audit_cloud.walkers.weight * heavy).sum())
        draws = model.distribution().sample((20_000,))
        error = (share * (1 - share) / 20_000) ** 0.5
        found = float((draws[:, 0] < 0).double().mean())
        assert found == pytest.approx(share, abs=5 * error)

    def test_moments_are_weighted(self):
        model = mixture()
        law = model.distribution()
        position = model.followers.audit_cloud.position
        torch.testing.assert_close(law.mean, position.mean(0))
        torch.testing.assert_close(law.variance, position.var(0, correction=0))
        assert law.expand((3,)).mean.shape == (3, 2)

    def test_shapes_are_those_of_any_distribution(self):
        law = mixture().distribution()
        assert (law.batch_shape, law.event_shape) == ((), (2,))
        wide = law.expand((3, 1))
        assert wide.sample((5,)).shape == (5, 3, 1, 2)
        assert wide.log_prob(torch.zeros(4, 2)).shape == (3, 4)
        assert wide.expand((3, 4)).log_prob(torch.zeros(2)).shape == (3, 4)
        assert law.expand((6,)).to_event(1).log_prob(torch.zeros(6, 2)).shape == ()

    def test_no_draws_are_an_empty_tensor(self):
        law = mixture().distribution()
        assert law.sample((0,)).shape == (0, 2)
        assert law.expand([3]).sample((2, 0)).shape == (2, 0, 3, 2)

    def test_masks_leave_out_data(self):
        law = mixture().distribution()
        mask = torch.tensor([True, False, True, False])
        found = law.mask(mask).log_prob(DATA)
        torch.testing.assert_close(found, law.log_prob(DATA) * mask)

    def test_value_outside_the_support_is_an_error(self):
        base = dist.Uniform(torch.zeros(1), 1.0).to_event(1)
        model = pj.EnergyModel(pj.MLP([1, 4]), base)
        pj.Followers(model, num_walkers=20, audit_walkers=20)
        law = model.distribution()
        assert law.support.base_constraint.upper_bound == 1
        with pytest.raises(ValueError, match="within the support"):
            pj.EnergyDistribution(
                model, model.followers, support=base.support, validate_args=True
            ).log_prob(torch.tensor([[2.0]]))

    def test_a_learner_leaves_its_walkers(self):
        model = pj.GaussianMixtureEnergy(MEANS, Z)
        learner = pj.JarzynskiLearner(model, torch.optim.SGD(model.parameters(), 0.01))
        learner.fit(DATA, 3, batch_size=None)
        found = -float(model.distribution().log_prob(DATA).mean().detach())
        assert found == pytest.approx(learner.nll(DATA).nll, abs=1e-5)


ELBOS = {
    "trace": Trace_ELBO(),
    "particles": Trace_ELBO(num_particles=3),
    "vectorised": Trace_ELBO(num_particles=3, vectorize_particles=True),
    "graph": TraceGraph_ELBO(),
    "enumeration": TraceEnum_ELBO(),
    "mean field": TraceMeanField_ELBO(),
}


class TestTraining:
    @pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites:UserWarning")
    @pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)
    def test_walkers_follow_once_per_step(self, elbo):
        model = mixture()
        svi, data = fitted(model, elbo=elbo)
        for number in (1, 2, 3):
            svi.step(data)
            assert steps(model) == [number, number]
        svi.evaluate_loss(data)
        assert steps(model) == [3, 3]

    def test_steps_are_those_of_the_learner(self):
        """Same data, optimiser and seed: the same gradients, to rounding.

        With ULA, whose gradient the learner takes where the walkers arrive, as here.
        """
        settings = {"num_walkers": 400, "audit_walkers": 300, "kernel": pj.ULA(0.05)}
        ours = pj.GaussianMixtureEnergy(MEANS, Z)
        learner = pj.JarzynskiLearner(
            ours, torch.optim.SGD(ours.parameters(), 0.1), **settings
        )
        learner.fit(DATA, 5, batch_size=None)
        theirs = pj.GaussianMixtureEnergy(MEANS, Z)
        optim = pj.JarzynskiOptim(pyro.optim.SGD({"lr": 0.1}), theirs, **settings)

        def program(x):
            pyro.module("energy", theirs)
            with pyro.plate("data", len(x)), pyro.poutine.scale(scale=1 / len(x)):
                pyro.sample("x", theirs.distribution(), obs=x)

        svi = SVI(program, lambda x: None, optim, Trace_ELBO())
        for _ in range(5):
            svi.step(DATA)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

    def test_a_prior_is_learned_through_noise(self):
        """The EBM is the prior of latents that are seen with noise; its modes emerge.

        Data of two modes at ±2 with noise 0.5: at the optimum `z` has them as well.
        """
        base = dist.Normal(torch.zeros(1), 2.0).to_event(1)
        model = pj.EnergyModel(pj.MLP([1, 16, 16]), base)
        y = torch.cat([torch.full((60, 1), -2.0), torch.full((60, 1), 2.0)])
        y = y + 0.5 * torch.randn(120, 1)

        def program(y):
            pyro.module("prior", model)
            with pyro.plate("data", len(y)):
                z = pyro.sample("z", model.distribution())
                pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

        guide = AutoNormal(program, init_loc_fn=lambda site: y.clone(), init_scale=0.3)
        optim = pj.JarzynskiOptim(
            pyro.optim.Adam({"lr": 0.01}), model, num_walkers=300, audit_walkers=300
        )
        svi = SVI(program, guide, optim, Trace_ELBO())
        for _ in range(300):
            svi.step(y)
        places = torch.tensor([[-2.0], [0.0], [2.0]])
        at = model.distribution().log_prob(places).detach()
        assert float(at[0] - at[1]) > 1
        assert float(at[2] - at[1]) > 1

    def test_failure_leaves_parameters_and_walkers_as_they_were(self):
        model = mixture()
        svi, data = fitted(model)
        svi.step(data)
        before = [p.detach().clone() for p in model.parameters()]
        made = list(svi.optim.optim_objs.values())
        moments = [s["exp_avg"].clone() for each in made for s in each.state.values()]
        svi.optim.optim.pt_optim_args["lr"] = 1e30
        for each in svi.optim.optim_objs.values():
            each.param_groups[0]["lr"] = 1e30
        with pytest.raises((NonFiniteEnergyError, pj.JarzynskiError)):
            svi.step(data)
        assert steps(model) == [1, 1]
        for a, b in zip(model.parameters(), before, strict=True):
            assert torch.equal(a, b)
        found = [s["exp_avg"] for each in made for s in each.state.values()]
        for a, b in zip(found, moments, strict=True):
            assert torch.equal(a, b)

    def test_failure_in_the_first_step_leaves_no_optimiser(self):
        model = mixture()
        svi, data = fitted(model)
        svi.optim.optim.pt_optim_args["lr"] = 1e30
        with pytest.raises((NonFiniteEnergyError, pj.JarzynskiError)):
            svi.step(data)
        assert not svi.optim.optim_objs


class TestLatent:
    """A latent below the mixture and a Gaussian likelihood: the posterior is a mixture."""

    y = torch.tensor([0.5, 0.4])

    @pytest.fixture
    def model(self):
        model = mixture(num_walkers=2000, audit_walkers=2000)
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
        return model

    def program(self, model):
        def program(y):
            z = pyro.sample("z", model.distribution())
            pyro.sample("y", dist.Normal(z, 1.5).to_event(1), obs=y)

        return program

    def truth(self, model):
        """Posterior mean, and log evidence."""
        variance = 1 + 1.5**2
        marginal = dist.Normal(MEANS, variance**0.5).to_event(1).log_prob(self.y)
        joint = model.masses().log() + marginal
        means = (MEANS * 1.5**2 + self.y) / variance
        return joint.softmax(0) @ means, float(joint.logsumexp(0))

    def test_under_annealed_smc(self, model):
        result = pj.AnnealedSMC(self.program(model), progress=False).run(self.y)
        mean, evidence = self.truth(model)
        assert result.posterior.method == "vmap"
        assert steps(model) == [0, 0]
        assert result.log_evidence == pytest.approx(
            evidence, abs=6 * result.log_evidence_error + 0.01
        )
        found = result.get_samples()["z"].mean(0)
        errors = torch.tensor(result.summary().table["mcse"].tolist())
        assert bool(((found - mean).abs() < 6 * errors + 0.01).all())

    def test_under_nuts(self, model):
        mcmc = MCMC(NUTS(self.program(model)), 300, warmup_steps=100, disable_progbar=True)
        mcmc.run(self.y)
        assert steps(model) == [0, 0]
        # Coarse, as draws are dependent: two modes 4 apart, a mean within 0.8.
        found = mcmc.get_samples()["z"].mean(0)
        assert bool(((found - self.truth(model)[0]).abs() < 0.8).all())

    def test_under_a_guide(self, model):
        program = self.program(model)
        guide = AutoNormal(program)
        svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step(self.y) for _ in range(200)]
        assert steps(model) == [0, 0]
        # The ELBO is below the evidence, and near it.
        bound = -sum(losses[-50:]) / 50
        assert self.truth(model)[1] - 1.0 < bound < self.truth(model)[1] + 0.3


class TestState:
    def test_a_copy_goes_its_own_way(self):
        model = mixture()
        svi, data = fitted(model)
        svi.step(data)
        other = copy.deepcopy(model)
        assert other.followers.model is other
        before = other.distribution().log_prob(data)
        svi.step(data)
        assert steps(other) == [1, 1]
        torch.testing.assert_close(other.distribution().log_prob(data), before)

    def test_a_run_goes_on_to_the_last_bit(self):
        """Through state dicts and the parameter store, as a restart would."""
        model = mixture()
        svi, data = fitted(model)
        for _ in range(3):
            svi.step(data)
        parameters = copy.deepcopy(model.state_dict())
        state = copy.deepcopy(svi.optim.get_state())
        for _ in range(3):
            svi.step(data)
        expected = [p.detach().clone() for p in model.parameters()]

        pyro.clear_param_store()
        again = mixture()
        again.load_state_dict(parameters)
        other, data = fitted(again)
        with pytest.raises(ArgumentError, match="parameters of this energy have changed"):
            other.evaluate_loss(data)
        other.optim.set_state(state)
        for _ in range(3):
            other.step(data)
        for a, b in zip(again.parameters(), expected, strict=True):
            assert torch.equal(a, b)

    def test_walkers_of_another_model_are_refused(self):
        state = mixture().followers.state_dict()
        other = pj.GaussianMixtureEnergy(torch.zeros(2, 3), Z)
        pj.Followers(other, num_walkers=20, audit_walkers=20)
        with pytest.raises(ArgumentError, match=r"walkers of shape \(3,\), got \(2,\)"):
            other.followers.load_state_dict(state)


class TestBadInput:
    def test_nobody_follows(self):
        with pytest.raises(ArgumentError, match="No walkers follow this energy"):
            pj.GaussianMixtureEnergy(MEANS, Z).distribution()

    def test_parameters_changed_behind_the_walkers(self):
        model = mixture()
        with torch.no_grad():
            model.means.add_(0.1)
        with pytest.raises(ArgumentError, match=r"followers\.update\(\)"):
            model.distribution()
        model.followers.update()
        model.distribution()

    def test_parameters_that_are_not_trained(self):
        model = mixture()
        optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 0.1}), model)

        def program(x):
            shift = pyro.param("shift", torch.zeros(2))
            with pyro.plate("data", len(x)):
                pyro.sample("x", model.distribution(), obs=x - shift)

        svi = SVI(program, lambda x: None, optim, Trace_ELBO())
        with pytest.raises(ArgumentError, match=r"'means' .* call `pyro.module"):
            svi.step(DATA)

    def test_optimiser_that_is_none_of_pyro(self):
        model = mixture()
        adam = torch.optim.Adam(model.parameters())
        with pytest.raises(ArgumentTypeError, match=r"optimiser of `pyro\.optim`"):
            pj.JarzynskiOptim(adam, model)

    @pytest.mark.parametrize("number", [0, 2])
    def test_models_that_are_none_or_one_twice(self, number):
        models = [mixture()] * number
        with pytest.raises(ArgumentError, match="one or several different energies"):
            pj.JarzynskiOptim(pyro.optim.Adam({"lr": 0.1}), *models)


def test_steps_of_the_energy_alone_are_shortened():
    """At a scale of ½ the energy moves half as far, and the guide as far as it is told."""
    found = []
    for scale in (1.0, 0.5):
        pyro.clear_param_store()
        model = mixture()

        def program(x, model=model):
            pyro.module("energy", model)
            shift = pyro.param("shift", torch.zeros(2))
            with pyro.plate("data", len(x)):
                pyro.sample("x", model.distribution(), obs=x + shift)

        optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 0.01}), model)
        optim.controls[0].scale = scale
        SVI(program, lambda x: None, optim, Trace_ELBO()).step(DATA)
        found.append((model.means.detach() - MEANS, pyro.param("shift").detach()))
    (whole, told), (half, told_again) = found
    torch.testing.assert_close(half, whole / 2, rtol=1e-4, atol=1e-7)
    assert torch.equal(told, told_again)
    assert told.abs().min() > 0


def test_reckless_steps_are_shortened_and_the_scale_is_kept():
    svi, data = fitted(mixture(kernel=pj.MALA(0.5)))
    svi.optim.optim.pt_optim_args = {"lr": 1.0}
    for _ in range(5):
        svi.step(data)
    scale = svi.optim.controls[0].scale
    assert scale < 0.9
    other, _ = fitted(mixture(kernel=pj.MALA(0.5)))
    other.optim.set_state(copy.deepcopy(svi.optim.get_state()))
    assert other.optim.controls[0].scale == scale
