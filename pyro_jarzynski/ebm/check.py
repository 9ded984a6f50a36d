"""An independent check of a trained model: `log Z` by long annealing from its base.

Nothing of the training is used but the parameters: new walkers are drawn from the base
and carried to the model through many temperatures. A first, small cloud finds the step
size of every temperature; they are then frozen and replayed by fresh walkers, so that
the estimate of `Z` stays unbiased.
"""

import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.adaptation import adapted
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.smc import Stage
from pyro_jarzynski.core.transitions import Tools
from pyro_jarzynski.core.walkers import Walkers, init
from pyro_jarzynski.ebm.energy import EnergyModel
from pyro_jarzynski.errors import count


def annealed_walkers(
    model: EnergyModel,
    *,
    num_temperatures: int = 400,
    num_walkers: int = 1024,
    num_moves: int = 5,
    num_pilot_walkers: int = 128,
    kernel: Kernel = MALA(0.3),  # noqa: B008
    seed: int = 0,
    chunk_size: int | None = None,
) -> Walkers:
    """Anneal fresh walkers from the base of a model to the model.

    Args:
        model: The model; its present parameters are checked.
        num_temperatures: Equal steps of the inverse temperature from 0 to 1.
        num_walkers: Walkers of the estimate.
        num_moves: Moves of every walker per temperature.
        num_pilot_walkers: Walkers that find the step sizes and are then thrown away.
        kernel: How walkers move; its step size is where the pilot starts.
        seed: Seed of both clouds; use another than that of the training.
        chunk_size: Walkers per call of the model; `None` takes all at once.

    Returns:
        Walkers weighted for the model, with `log_normalizer` and its error.

    Source:
        Neal (2001), Statistics and Computing 11; with resampling Del Moral, Doucet, Jasra
        (2006), J. R. Stat. Soc. B 68(3).
    """
    count("num_temperatures", num_temperatures)
    count("num_walkers", num_walkers)
    count("num_pilot_walkers", num_pilot_walkers)
    count("num_moves", num_moves)
    betas = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64).tolist()
    path = Tempering(lambda x: -model.base.log_prob(x), model, betas)
    device = next(model.parameters()).device
    generator = stream(seed, "annealing", device)
    tools = Tools(generator, chunk_size)

    kernels = []
    walkers = init(model.draw(num_pilot_walkers, generator), path[0])
    for index in range(1, len(path)):
        walkers, info = smc.step(
            walkers, path[index], kernel, num_moves=num_moves, tools=tools
        )
        kernel = adapted(kernel, float(info.acceptance_rate), rate=0.3)
        kernels.append(kernel)

    fresh = model.draw(num_walkers, generator)
    walkers = init(fresh, path[0], chunk_size=chunk_size)
    stages = [Stage(path[k], kernel, num_moves) for k, kernel in enumerate(kernels, 1)]
    for moved, _ in smc.follow(walkers, stages, tools=tools):
        walkers = moved
    return walkers
