"""Models whose latents are where their data are."""

import math

import pyro
import pyro.distributions as dist
import torch


def gaussian(y):
    """Of known evidence: `y` is normal with covariance `I + 1`."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def narrow(y):
    """So far from its prior that a base is learned."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(mu, 0.01).to_event(1), obs=y[:3])


def of_numbers(y):
    """The same with a prior that is where torch's default device is."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def schools(y, sigma):
    """A funnel, from whose prior the path is long: a base is learned on it."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)
    pyro.deterministic("effect", theta - mu)


def mixture(y):
    """Discrete latents beside a continuous one."""
    centre = pyro.sample("centre", dist.Normal(y.new_zeros(()), 2.0))
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
    with pyro.plate("data", len(y)):
        kind = pyro.sample("kind", dist.Bernoulli(share)).long()
        means = torch.stack([centre, centre + 3])
        pyro.sample("y", dist.Normal(means[kind], 1.0), obs=y)


def switch(y):
    """A discrete latent alone, of known evidence."""
    kind = pyro.sample("kind", dist.Categorical(y.new_tensor([0.25, 0.75])))
    means = 3.0 * kind.unsqueeze(-1) + torch.zeros_like(y)
    pyro.sample("y", dist.Normal(means, 1.0).to_event(1), obs=y)


def correlated(y):
    """Correlations of LKJ, of which torch draws wrong ones."""
    lower = pyro.sample("lower", dist.LKJCholesky(3, y.new_tensor(2.0)))
    with pyro.plate("data", len(y)):
        normal = dist.MultivariateNormal(y.new_zeros(3), scale_tril=lower)
        pyro.sample("y", normal, obs=y)


def doubtful(y):
    """The Gaussian in a way that `vmap` refuses, and a plate of particles does not."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    if (mu > 1e6).any():
        raise ValueError
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def by_item(y):
    """The Gaussian in a way that only one walker at a time can go."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    assert math.isfinite(mu.item())
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def improper(y):
    """A flat prior, that has no place of its own."""
    flat = dist.ImproperUniform(dist.constraints.real, (), ())
    mu = pyro.sample("mu", flat)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def partly_observed(y):
    """Data of which some are latent."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=y > 0.3)


DATA = (0.5, 1.5, 0.2, 0.9)


def data(device, dtype=torch.float32):
    return torch.tensor(DATA, dtype=dtype, device=device)


def schools_data(device):
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], device=device)
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], device=device)
    return y, sigma


def log_evidence_of_gaussian(y):
    y = y.double().cpu()
    covariance = torch.eye(len(y), dtype=torch.float64, device="cpu") + 1
    normal = dist.MultivariateNormal(torch.zeros_like(y), covariance)
    return float(normal.log_prob(y))
