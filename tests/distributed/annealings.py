"""Annealings of every kind, on the ranks that there are; run by `launch.run`.

python -m tests.distributed.annealings FILE [NAME ...]
"""

import sys
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC
from safetensors.torch import save_file
from torch import Tensor, distributed

import pyro_jarzynski as pj
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.core.shards import Shards
from pyro_jarzynski.core.sharing import sharing
from pyro_jarzynski.core.walkers import Walkers, init

SCHOOLS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
BETAS = [(k / 4) ** 3 for k in range(5)]


def schools(effects: Tensor, errors: Tensor) -> None:
    """Eight schools, of which each is of one of two kinds."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(effects)):
        theta = pyro.sample("theta", dist.Normal(mu, tau + 0.1))
        odd = pyro.sample("odd", dist.Bernoulli(0.2), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(theta + 5 * odd, errors), obs=effects)


def line(y: Tensor) -> None:
    """A mean and a spread, of which the prior is far too wide."""
    mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, spread + 0.1), obs=y)


Y = torch.tensor([1.2, -0.7, 0.3, 2.5, 0.9, 1.6])
FEW: dict[str, Any] = {"num_walkers": 40, "num_chains": 2, "max_moves": 2, "seed": 1}
# Model, data, number of shards, settings.
RUNS: dict[str, tuple[Any, tuple, int, dict[str, Any]]] = {
    "MALA": (line, (Y,), 8, {}),
    "four islands of one shard": (line, (Y,), 4, {"num_chains": 4}),
    "four islands of two shards": (line, (Y,), 8, {"num_chains": 4, "num_walkers": 27}),
    "one island of eight shards": (line, (Y,), 8, {"num_chains": 1, "num_walkers": 83}),
    "HMC": (line, (Y,), 8, {"kernel": pj.HMC(0.1, 2), "schedule": BETAS, "num_moves": 1}),
    "ULA": (line, (Y,), 8, {"kernel": pj.ULA(0.01), "schedule": BETAS}),
    "underdamped": (
        line,
        (Y,),
        8,
        {"kernel": pj.UnderdampedLangevin(0.1), "schedule": BETAS},
    ),
    "off": (line, (Y,), 8, {"adapt": "off", "schedule": BETAS}),
    "data that arrive": (line, (Y,), 8, {"schedule": pj.DataTempering([3, 6], 0.5)}),
    "earlier draws": (
        line,
        (Y,),
        8,
        {"base": {"mu": torch.linspace(-3, 5, 30), "spread": torch.linspace(0.2, 4, 30)}},
    ),
    "local resampling": (line, (Y,), 8, {"num_chains": 1, "ess_threshold": 0.8}),
    "chunks": (line, (Y,), 8, {"chunk_size": 7, "resampler": "residual"}),
    "eight schools": (schools, (SCHOOLS, ERRORS), 8, {}),
}


def anneal(name: str, **others: Any) -> pj.SMCResult:
    """Make one of the annealings, in shards."""
    model, data, num_shards, settings = RUNS[name]
    with sharing(num_shards, local=name == "local resampling"):
        sampler = pj.AnnealedSMC(model, progress=False, **(FEW | settings | others))
        return sampler.run(*data)


def content(result: pj.SMCResult) -> dict[str, Tensor]:
    """Return everything that a result holds, without times."""
    walkers = result.walkers
    found = {k: v for k, v in walkers._asdict().items() if isinstance(v, Tensor)}
    found |= {
        "energy": walkers.evaluation.energy,
        "gradient": walkers.evaluation.grad,
        "gradients": torch.tensor(result.num_gradients),
        "stages": torch.stack(result.stage_log_weights),
        "log evidence": torch.tensor(result.log_evidence),
    }
    found |= {f"draws {k}": v for k, v in result.get_samples().items()}
    found |= {k: v for k, v in result.history.items() if k != "seconds"}
    return {key: value.clone().contiguous() for key, value in found.items()}


def chain() -> dict[str, Tensor]:
    """Return draws of the kernel for MCMC, and its evidence."""
    kernel = pj.JarzynskiKernel(line, num_walkers=50, max_moves=3, seed=2)
    mcmc = MCMC(kernel, num_samples=60, warmup_steps=3, disable_progbar=True)
    with sharing():
        mcmc.run(Y)
    evidence = mcmc.diagnostics()["log evidence"]["chain 0"]
    return mcmc.get_samples() | {"evidence": torch.tensor(evidence)}


def compiled() -> dict[str, Tensor]:
    """Return an annealing of compiled code."""
    return content(anneal("MALA", jit_compile=True))


NUM, OUT_OF_BALANCE = 16_000, (0.001, 0.01, 0.1)


def travelled() -> dict[str, Tensor]:
    """Return the walkers that travel when the first half of a cloud has more weight."""
    found = {}
    for share in OUT_OF_BALANCE:
        team = Shards(Ranks(), 8, seed=0, purpose="test", device=torch.device("cpu"))

        def place(rows: slice, generator: torch.Generator, shard: str) -> Walkers:
            del generator, shard
            return init(torch.arange(NUM)[rows, None].double(), lambda x: x.sum(1))

        generator = torch.Generator().manual_seed(1)
        walkers = team.start(NUM, generator, place, 1)
        weight = torch.rand(NUM, generator=generator, dtype=torch.float64)
        halves = weight.view(2, -1)
        halves *= torch.tensor([[1 + 2 * share], [1 - 2 * share]]) / halves.sum(1, True)
        walkers = walkers._replace(log_weight=weight.log())
        low = torch.ones(1, dtype=torch.bool)
        moved, _ = team.resample(walkers, low, 1.0, systematic, generator)
        position = team.whole(moved).position
        assert torch.equal(position[:, 0].long(), moved.ancestor)
        surplus = moved.ancestor.bincount(minlength=NUM).view(8, -1).sum(1) - NUM // 8
        ranges = [team.ranks.range_of(8, rank) for rank in range(team.ranks.size)]
        of_ranks = torch.stack(
            [surplus[shards.start : shards.stop].sum() for shards in ranges]
        )
        least = of_ranks.clamp(min=0).sum()
        found[str(share)] = torch.stack([torch.tensor(team.num_moved), least])
    return found


OTHERS = {"chain": chain, "compiled": compiled, "travelled": travelled}


def outcomes(*names: str) -> dict[str, Tensor]:
    """Return the content of annealings by their names."""
    results = {}
    for name in names:
        found = OTHERS[name]() if name in OTHERS else content(anneal(name))
        results |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
    return results


def main(file: str, *names: str) -> None:
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo")
    # Every rank has all of it.
    save_file(outcomes(*names), f"{file}.{distributed.get_rank()}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
