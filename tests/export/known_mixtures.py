"""Models with discrete latents, with their joint density written out by hand."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor

from tests.export.assignments import mixed
from tests.export.known_likelihoods import normal, poisson, unit
from tests.infer.zoo import noise


def pick(log_probs: Tensor, z: Tensor) -> Tensor:
    return log_probs[z.long()].sum()


Y = torch.tensor([-1.5, 0.2, 1.8])
W = torch.tensor([0.0, 3.0, 1.0])
PATH = torch.tensor([-1.0, 0.3, 2.2, 1.4])
TABLE = noise(2, 2, seed=9)
# In double, so that it is rounded to the precision of the data alone.
THREE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
STEP = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
PARENT = torch.tensor([0.7, 0.3], dtype=torch.float64)
CELL = torch.tensor([0.25, 0.8], dtype=torch.float64)


def _mixture(v, z, y):
    mean = v["mean"][z["z"].long()]
    return pick(THREE.to(y).log(), z["z"]), {"y": normal(y, mean, 1.0)}


@mixed(Y, joint=_mixture, z=([0, 1, 2], (3,)))
def mixture_in_a_plate(y):
    with pyro.plate("components", 3):
        mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(THREE.to(y)))
        centre = pyro.deterministic("centre", Vindex(mean)[..., z])
        pyro.sample("y", dist.Normal(centre, 1.0), obs=y)


def _masked(v, z, y):
    prior, data = _mixture(v, z, y)
    return prior, {"y": data["y"] * (y > 0)}


@mixed(Y, joint=_masked, z=([0, 1, 2], (3,)))
def masked_mixture(y):
    with pyro.plate("components", 3):
        mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(THREE.to(y)))
        with poutine.mask(mask=y > 0):
            pyro.sample("y", dist.Normal(mean[z], 1.0), obs=y)


def _shared(v, z, y, w):
    chance = v["chance"]
    prior = torch.where(z["z"] > 0, chance.log(), (-chance).log1p()).sum()
    rate = (1 + 2 * z["z"]).to(y)
    return prior, {"y": normal(y, v["m"] * z["z"], 1.0), "w": poisson(w, rate)}


@mixed(Y, W, joint=_shared, z=([0.0, 1.0], (3,)))
def two_sites_share_a_latent(y, w):
    m = pyro.sample("m", unit(y))
    chance = pyro.sample("chance", dist.Beta(y.new_ones(()) * 2, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(chance))
        pyro.sample("y", dist.Normal(m * z, 1.0), obs=y)
        pyro.sample("w", dist.Poisson(1 + 2 * z), obs=w)


def _markov(v, z, y):
    prior, before, data = y.new_zeros(()), 0, {}
    for t in range(len(y)):
        here = int(z[f"z{t}"])
        prior = prior + STEP.to(y)[before, here].log()
        data[f"y{t}"], before = normal(y[t], v["mean"][here], 0.7), here
    return prior, data


@mixed(PATH, joint=_markov, **{f"z{t}": ([0, 1], ()) for t in range(4)})
def hidden_markov(y):
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2.0).expand([2]).to_event(1))
    z = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(STEP.to(y)[z]))
        pyro.sample(f"y{t}", dist.Normal(Vindex(mean)[..., z], 0.7), obs=y[t])


def _global(v, z, y):
    data = {"y": normal(y, v["m"] + z["z"].to(y), 1.0)}
    return pick(THREE.to(y).log(), z["z"]), data


@mixed(Y, joint=_global, z=([0, 1, 2], ()))
def global_latent(y):
    m = pyro.sample("m", unit(y))
    z = pyro.sample("z", dist.Categorical(THREE.to(y)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m + z, 1.0), obs=y)


def _children(v, z, y):
    parent = z["parent"]
    prior = pick(PARENT.to(y).log(), parent)
    log_step = STEP.to(y)[parent.long()].log()
    mean = v["m"] * (2.0 * z["child"] - 1)
    return prior + pick(log_step, z["child"]), {"y": normal(y, mean, 1.0)}


@mixed(Y, joint=_children, parent=([0.0, 1.0], ()), child=([0, 1], (3,)))
def global_parent_of_local_children(y):
    m = pyro.sample("m", unit(y))
    parent = pyro.sample("parent", dist.Bernoulli(PARENT.to(y)[1]))
    with pyro.plate("data", len(y)):
        child = pyro.sample("child", dist.Categorical(STEP.to(y)[parent.long()]))
        pyro.sample("y", dist.Normal(m * (2 * child - 1), 1.0), obs=y)


def _nested(v, z, y):
    column, cell = z["column"], z["cell"]
    prior = column.numel() * y.new_full((), 0.5).log()
    chance = CELL.to(y)[column.long()].expand(2, 2)
    prior = prior + torch.where(cell > 0, chance, 1 - chance).log().sum()
    return prior, {"y": normal(y, v["m"] * (column + cell), 0.6)}


@mixed(TABLE, joint=_nested, column=([0.0, 1.0], (2,)), cell=([0.0, 1.0], (2, 2)))
def nested_plates(y):
    m = pyro.sample("m", unit(y))
    with pyro.plate("columns", 2, dim=-1):
        column = pyro.sample("column", dist.Bernoulli(y.new_full((), 0.5)))
        with pyro.plate("rows", 2, dim=-2):
            chance = CELL.to(y)[column.long()]
            cell = pyro.sample("cell", dist.Bernoulli(chance))
            pyro.sample("y", dist.Normal(m * (column + cell), 0.6), obs=y)


def _supports(v, z, y):
    kind, count = z["kind"].to(y), z["count"].to(y)
    ways = torch.lgamma(count.new_tensor(3)) - torch.lgamma(count + 1)
    ways = ways - torch.lgamma(3 - count) + count * v["p"].log()
    prior = (kind * THREE.to(y).log()).sum()
    prior = prior + (ways + (2 - count) * (-v["p"]).log1p()).sum()
    scale = 0.5 + (kind * torch.arange(3).to(y)).sum()
    return prior, {"y": normal(y, count, scale)}


@mixed(
    Y[:2],
    joint=_supports,
    kind=([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)], (3,)),
    count=([0.0, 1.0, 2.0], (2,)),
)
def one_hot_and_binomial(y):
    p = pyro.sample("p", dist.Beta(y.new_ones(()) * 2, 2.0))
    kind = pyro.sample("kind", dist.OneHotCategorical(THREE.to(y)))
    scale = 0.5 + (kind * torch.arange(3).to(y)).sum(-1)
    with pyro.plate("data", len(y)):
        count = pyro.sample("count", dist.Binomial(2, p))
        pyro.sample("y", dist.Normal(count, scale), obs=y)


def _below(v, z, y):
    prior = pick(THREE.to(y).log(), z["z"]) + normal(v["m"], z["z"].to(y), 0.5)
    return prior, {"y": normal(y, v["m"], 1.0)}


@mixed(Y, joint=_below, z=([0, 1, 2], ()))
def continuous_below(y):
    z = pyro.sample("z", dist.Categorical(THREE.to(y)))
    m = pyro.sample("m", dist.Normal(z.to(y), 0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def _sequences(v, z, y):
    prior, before, data = y.new_zeros(()), torch.zeros(2, dtype=torch.long), {}
    for t in range(y.shape[1]):
        here = z[f"z{t}"].long()
        prior = prior + STEP.to(y)[before, here].log().sum()
        data[f"y{t}"], before = normal(y[:, t], v["m"] * here, 1.0), here
    return prior, data


@mixed(noise(2, 3, seed=8), joint=_sequences, **{f"z{t}": ([0, 1], (2,)) for t in range(3)})
def markov_in_a_plate_of_sequences(y):
    m = pyro.sample("m", unit(y))
    z = torch.tensor(0)
    with pyro.plate("sequences", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(Vindex(STEP.to(y))[z]))
            pyro.sample(f"y{t}", dist.Normal(m * z, 1.0), obs=y[:, t])


def _single(v, z, y):
    return pick(THREE.to(y).log(), z["z"]), {"y": normal(y, v["m"] * z["z"], 1.0)}


@mixed(Y[:1], joint=_single, z=([0, 1, 2], (1,)))
def plate_of_one(y):
    m = pyro.sample("m", unit(y))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(THREE.to(y)))
        pyro.sample("y", dist.Normal(m * z, 1.0), obs=y)
