"""Models and data that cannot be used, and what the errors say."""

import math
from functools import partial
from pathlib import Path

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import ProjectedNormalReparam
from torch import nn
from torch.distributions import constraints

from pyro_jarzynski.errors import ModelError, WeightCollapseError
from tests.infer.batches import conjugate, observe, run
from tests.infer.zoo import LINE, X, Y


def test_subsampled_plate():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=5) as rows:
            pyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])

    with pytest.raises(ModelError, match=r"plate 'data' is subsampled \(5 of 12\)"):
        run(model, Y)


@pytest.mark.parametrize("kind", [dist.transforms.Planar, dist.transforms.Radial])
def test_a_latent_of_a_flow_without_inverse(kind):
    """Its density is known at its own draws alone."""
    with torch.random.fork_rng():
        flow = kind(2)

    def model(y):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    with pytest.raises(ModelError, match=r"'z' cannot have .*TransformedDistribution"):
        run(model, torch.tensor(0.5))


def test_discrete_latent_without_end():
    def model(y):
        k = pyro.sample("k", dist.Poisson(3.0))
        observe(k, y)

    with pytest.raises(ModelError, match=r"'k' \(Poisson\) is discrete and cannot be enum"):
        run(model, Y)


def test_discrete_latents_of_one_event():
    """The advice is taken: in a plate they can be enumerated."""

    def model(y, *, in_a_plate):
        law = dist.Bernoulli(0.5 * torch.ones(3))
        if in_a_plate:
            with pyro.plate("k_plate", 3):
                k = pyro.sample("k", law)
                pyro.sample("y", dist.Normal(k, 1.0), obs=y[:3])
        else:
            k = pyro.sample("k", law.to_event(1))
            pyro.sample("y", dist.Normal(k, 1.0).to_event(1), obs=y[:3])

    with pytest.raises(ModelError, match=r"'k' is declared as one event of shape \(3,\)"):
        run(partial(model, in_a_plate=False), Y)
    assert run(partial(model, in_a_plate=True), Y).complete


def test_sequential_enumeration():
    def model(y):
        k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "sequential"})
        observe(k, y)

    with pytest.raises(ModelError, match=r"'k' asks for enumeration 'sequential'"):
        run(model, Y)


def test_discrete_latent_used_as_a_number():
    """Summed out, a discrete latent has all of its values at once."""

    def model(y):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        observe(m + [0.0, 2.0][int(k)], y)

    with pytest.raises(ModelError, match="enumerat"):
        run(model, Y)


def test_latent_without_density():
    def model(y):
        m = pyro.sample("m", dist.Delta(torch.tensor(1.0)))
        observe(m, y)

    with pytest.raises(ModelError, match=r"'m' has a Delta distribution"):
        run(model, Y)


def test_support_without_a_bijection():
    def model(y):
        direction = pyro.sample("direction", dist.ProjectedNormal(torch.ones(2)))
        observe(direction[..., 0], y)

    with pytest.raises(ModelError, match=r"'direction' has support .*no bijection"):
        run(model, Y)
    # What the message names.
    run(poutine.reparam(model, {"direction": ProjectedNormalReparam()}), Y)


@pytest.mark.parametrize(
    ("prior", "parameter"),
    [
        (lambda: dist.Normal(0.0, math.inf), "scale"),
        (lambda: dist.HalfCauchy(math.inf), "scale"),
        (lambda: dist.Uniform(0.0, math.inf), "high"),
        (lambda: dist.Uniform(-1e39, 1e39), "low"),
        (
            lambda: dist.Normal(torch.zeros(2), torch.tensor([1, math.inf])).to_event(1),
            "scale",
        ),
    ],
)
@pytest.mark.parametrize("base", ["prior", "normal"])
def test_priors_that_are_improper_by_a_parameter(prior, parameter, base):
    """They name what does work, which is tried below."""

    def model(y):
        observe(pyro.sample("m", prior()).sum(), y)

    told = rf"'m' has an infinite `{parameter}`.*`dist.ImproperUniform`.*base=\"normal\""
    with pytest.raises(ModelError, match=told):
        run(model, Y, base=base)


def test_an_improper_prior_as_advised():
    def model(y):
        observe(pyro.sample("m", dist.ImproperUniform(constraints.real, (), ())), y)

    result = run(model, Y, base="normal", num_walkers=512)
    m = result.get_samples()["m"].double()
    # Of 1,024 draws, the mean to five standard errors.
    assert abs(float(m.mean() - Y.mean())) < 5 / math.sqrt(12 * 1024 / 4)


def test_a_scale_that_is_infinite_at_some_draws_is_no_improper_prior():
    def model(y):
        s = pyro.sample("s", dist.Normal(0.0, 60.0))
        m = pyro.sample("m", dist.Normal(0.0, s.exp()))
        observe(m, y)

    with pytest.warns(UserWarning, match="."):
        assert run(model, Y).complete


def test_improper_prior_without_a_bijection():
    def model(y):
        sphere = dist.constraints.sphere
        direction = pyro.sample("direction", dist.ImproperUniform(sphere, (), (2,)))
        observe(direction[0], y)

    with pytest.raises(ModelError, match=r"'direction' has support .*no bijection"):
        run(model, Y, base="normal")


def test_hidden_randomness():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        observe(m + torch.randn(()), y)

    with pytest.raises(ModelError, match=r"draws random numbers outside its sample sites"):
        run(model, Y)


def line_of(text):
    """Return the number of the first line of this file that has a text."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return min(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda: torch.randn(()), "randn"),
        (lambda: dist.Normal(0.0, 1.0).sample(), "normal"),
        (lambda: torch.rand(3)[torch.randperm(3)][0], "rand"),
    ],
)
@pytest.mark.parametrize("latent", [dist.Normal(0.0, 1.0), dist.Bernoulli(0.5)])
def test_hidden_randomness_has_its_call_and_its_line(draw, name, latent):
    """Also where the latents are discrete, and nothing is annealed."""

    def model(y):
        m = pyro.sample("m", latent)
        observe(m + draw(), y)

    with pytest.raises(ModelError, match=f"by `{name}` at .*test_bad_models.py, line"):
        run(model, Y)


def test_hidden_randomness_of_a_model_of_pyro():
    """A variational model draws its function within its likelihood."""
    kernel = gp.kernels.RBF(input_dim=1)
    with torch.random.fork_rng():
        kernel.lengthscale = pyro.nn.PyroSample(dist.LogNormal(0.0, 1.0))
    likelihood = gp.likelihoods.Binary()
    process = gp.models.VariationalGP(LINE, (Y > 0).float(), kernel, likelihood)
    with pytest.raises(ModelError, match=r"by `normal_` at .*binary.py, line \d+"):
        run(process.model)


@pytest.mark.filterwarnings("ignore:.*`max_moves` ended the moves")
def test_values_that_leave_torch_have_their_line():
    """The advice is taken: without that part of the gradient the evidence is the same."""

    def model(y, take):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        observe(torch.as_tensor(take(m)).sin(), y)

    def plain(m):
        return m.numpy()  # torch refuses it

    line = line_of("return m.numpy()  # torch")
    with pytest.raises(ModelError, match=f"test_bad_models.py, line {line}.*`.detach"):
        run(model, Y, plain)
    result = run(model, Y, lambda m: m.detach().numpy(), num_chains=16)
    m = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    data = dist.Normal(m.sin()[:, None], 1.0).log_prob(Y.double()).sum(1)
    truth = (dist.Normal(0.0, 1.0).log_prob(m) + data).logsumexp(0) + math.log(m[1] - m[0])
    # 16 islands: Student's law of 15 degrees of freedom, false alarm 6e-5.
    assert abs(result.log_evidence - float(truth)) < 5.5 * result.log_evidence_error


def test_dropout_that_is_on():
    dropout = nn.Dropout(0.5)

    def model(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        observe(dropout(x) @ b, y)

    with pytest.raises(ModelError, match=r"switch dropout off with `\.eval\(\)`"):
        run(model, X, Y)
    dropout.eval()
    assert run(model, X, Y).complete


def test_latents_that_come_and_go():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if m > 0:
            m = m + pyro.sample("extra", dist.Normal(0.0, 1.0))
        observe(m, y)

    with pytest.raises(ModelError, match=r"'extra' is there in some runs .* not in others"):
        run(model, Y)


def test_latents_that_come_and_go_rarely():
    """Not met when the model is analysed, but by the walkers."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if m > 2.5:
            m = m + pyro.sample("extra", dist.Normal(0.0, 1.0))
        observe(m, y)

    with (
        pytest.warns(UserWarning, match="one walker at a time"),
        pytest.raises(ModelError, match=r"'extra' that it did not have before"),
    ):
        run(model, Y + 4)


def test_latent_of_changing_shape():
    def model(y):
        k = pyro.sample("k", dist.Normal(torch.zeros(num.pop()), 1.0).to_event(1))
        observe(k.sum(), y)

    num = [5, 4, 3]
    with pytest.raises(ModelError, match=r"'k' changes its shape .* \(3,\) to \(4,\)"):
        run(model, Y)


def test_observation_outside_of_its_support():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("count", dist.Poisson(m.exp()), obs=y)

    with pytest.raises(ModelError, match=r"(?s)cannot be run with these data.*'count'"):
        run(model, Y)


def test_observation_that_is_nan():
    y = Y.clone()
    y[3] = math.nan
    with pytest.raises(ModelError, match=r"(?s)cannot be run with these data.*'y'"):
        run(conjugate, y)


@pytest.mark.parametrize("data", [0.3, Y.numpy()])
def test_observation_that_is_no_tensor(data):
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    with pytest.raises(ModelError, match=r"'y' must be a tensor, .*`obs=torch.as_tensor"):
        run(model, data)


def test_plate_of_no_data():
    with pytest.raises(ModelError, match="cannot be run with these data"):
        run(conjugate, torch.empty(0))


def test_argument_that_is_nan():
    def model(x, y):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        observe(b * x, y)

    x = LINE.clone()
    x[3] = math.nan
    with pytest.raises(ModelError, match=r"cannot be run with these data.* parameter loc"):
        run(model, x, Y)


def test_likelihood_of_zero_everywhere():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.where(m < 100, -math.inf, m))
        observe(m, y)

    with pytest.raises(WeightCollapseError, match=r"site 'never' is zero"):
        run(model, Y)


def test_mask_of_zeros_and_ones_is_no_bool():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=(y > 0).float()):
            pyro.sample("y", dist.Normal(m, 1.0).expand([12]).to_event(1), obs=y)

    with pytest.raises(ModelError, match="cannot be run with these data"):
        run(model, Y)


def test_arguments_that_do_not_fit_the_model():
    with pytest.raises(TypeError, match="required positional argument"):
        run(conjugate)
