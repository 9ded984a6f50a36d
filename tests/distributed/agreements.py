"""What the ranks of an annealing tell each other; run by `launch.run`.

python -m tests.distributed.agreements FOLDER

Each line that a rank prints is one outcome.
"""

import json
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC
from safetensors.torch import load_file, save_file
from torch import distributed

import pyro_jarzynski as pj
from pyro_jarzynski.core.sharing import sharing
from pyro_jarzynski.core.states import Keep, Resumable
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.time_limit import TimeLimit
from pyro_jarzynski.runtime.state_files import decode, encode
from tests.distributed.annealings import BETAS, FEW, Y, content, line

SLOW: dict[str, Any] = {"schedule": [k / 8 for k in range(9)], "adapt": "off"}
SCOUTING: dict[str, Any] = {"schedule": pj.AdaptiveTempering(0.9), "adapt": "pilot"}
# A stage of which the state is kept.
KEPT = 3


def annealing(
    *data: Any, model: Any = line, num_shards: int = 8, **settings: Any
) -> Callable[[], Any]:
    """Return an annealing that is yet to be made."""

    def act() -> Any:
        with sharing(num_shards):
            sampler = pj.AnnealedSMC(model, progress=False, **(FEW | SLOW | settings))
            return sampler.run(*(data or (Y,)))

    return act


def told(name: str, act: Callable[[], Any]) -> Any:
    """Do something, and print how it ended."""
    outcome = None
    try:
        outcome = act()
        print(f"{name}: done", flush=True)
    except (pj.JarzynskiError, KeyboardInterrupt) as error:
        print(f"{name}: {type(error).__name__} {error}", flush=True)
    return outcome


def with_closure(y: torch.Tensor) -> Any:
    """Return a model whose data are not among its arguments."""

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return model


def stopped(rank: int) -> Any:
    """Send Ctrl-C to one rank after a stage."""
    add = Recorder.add

    def interrupted(self: Recorder, reached: Any) -> None:
        add(self, reached)
        if self.num_stages == KEPT and rank == 1:
            signal.raise_signal(signal.SIGINT)

    sampler = pj.AnnealedSMC(line, progress=False, **(FEW | SLOW))
    # The rank that receives it says what it waits for; the other has nothing to say.
    silent = redirect_stderr(StringIO())
    with patch.object(Recorder, "add", interrupted), silent:
        told("interrupted", lambda: sampler.run(Y))
    assert sampler.result is not None
    return sampler.result


def late(rank: int) -> Any:
    """Let the clock of one rank be an hour ahead."""
    with hour_ahead(rank):
        return told("late", annealing(max_seconds=1800.0))


def scouts(rank: int) -> Any:
    """Let the clock of one rank be ahead while a scout is under way."""
    with hour_ahead(rank):
        result = told("scout", annealing(max_seconds=7000.0, **SCOUTING))
    print(type(result.posterior).__name__)
    return result


@contextmanager
def hour_ahead(rank: int) -> Iterator[None]:
    """Let runs of rank 1 have begun an hour ago; stages that are under way may end."""
    begin = TimeLimit.__init__

    def ahead(self: TimeLimit, max_seconds: float | None) -> None:
        begin(self, max_seconds)
        self.start -= 3600 * rank

    with patch.multiple(TimeLimit, __init__=ahead, grace=math.inf):
        yield


class Kept:
    """Checkpoints that hold one state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    @contextmanager
    def opened(self, run: Resumable) -> Iterator[Keep]:
        if self.state is not None:
            run.load_state_dict(self.state)

        def keep(step: int, *, now: bool = False) -> None:
            del now
            if step == KEPT:
                self.state = run.state_dict()

        yield keep


def write(state: Any, folder: Path, rank: int) -> None:
    """Write the state of a rank."""
    values, tensors = encode(state)
    (folder / f"{rank}.json").write_text(json.dumps(values))
    plain = {name: x.contiguous().clone() for name, x in tensors.items()}
    save_file(plain, folder / f"{rank}.safetensors")


def read(folder: Path, num: int) -> Any:
    """Return the state of so many ranks."""
    states = [
        decode(
            json.loads((folder / f"{rank}.json").read_text()),
            load_file(folder / f"{rank}.safetensors"),
        )
        for rank in range(num)
    ]
    return merged(states)


def merged(states: list[Any], key: str = "") -> Any:
    """Return one state with the shards of all; the rest must be the same."""
    first = states[0]
    if key == "shards":
        return {name: value for state in states for name, value in state.items()}
    if isinstance(first, dict):
        assert all(state.keys() == first.keys() for state in states)
        return {name: merged([s[name] for s in states], name) for name in first}
    if isinstance(first, list | tuple):
        assert len({len(state) for state in states}) == 1
        return type(first)(merged(list(each)) for each in zip(*states, strict=True))
    if isinstance(first, torch.Tensor):
        assert all(torch.equal(state, first) for state in states), key
    else:
        assert all(state == first for state in states), key
    return first


def draws(rank: int) -> torch.Tensor:
    """Return draws of the kernel for MCMC on ranks of different seeds."""
    pyro.set_rng_seed(rank)
    kernel = pj.JarzynskiKernel(line, num_walkers=16, max_moves=1, schedule=BETAS)
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=2, disable_progbar=True)
    with sharing(4):
        mcmc.run(Y)
    return mcmc.get_samples()["mu"]


def main(folder: str) -> None:
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    told("data", annealing(Y + rank))
    told("settings", annealing(max_moves=3 + rank))
    told("shards", annealing(num_shards=8 + rank))
    told("closure", annealing(model=lambda _: with_closure(Y + rank)()))
    told("versions", patch("torch.__version__", f"2.{rank}")(annealing()))
    told("islands", annealing(num_chains=3))
    told("few walkers", annealing(num_walkers=3))
    told("online", annealing(adapt="online"))
    told("waste-free", annealing(waste_free=True, kernel=pj.MALA()))
    for result in (stopped(rank), late(rank), scouts(rank)):
        print("stages", len(result.history["beta"]), result.complete, result.seconds > 0)
        print("evidence", repr(result.log_evidence), len(result.walkers.log_weight))
        print("seconds", result.history["seconds"].tolist(), result.walkers.position.sum())
    print("draws", draws(rank).tolist())
    kept = Kept()
    whole = annealing(checkpoints=kept)()
    write(kept.state, Path(folder), rank)
    distributed.barrier()
    again = annealing(checkpoints=Kept(read(Path(folder), 2)))()
    same = [torch.equal(a, content(again)[name]) for name, a in content(whole).items()]
    print("resumed", all(same), len(same))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
