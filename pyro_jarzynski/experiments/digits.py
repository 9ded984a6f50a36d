"""An energy-based model of real handwritten digits, in under three minutes on two cores."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_jarzynski.core.kernels import MALA
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.data import DequantisedBatches, ImageData
from pyro_jarzynski.ebm.energy import EnergyModel
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.networks import MLP
from pyro_jarzynski.errors import count, one_of, positive
from pyro_jarzynski.experiments.mixture import LEARNERS

# Updates for which the learning rate stays at its first value, and the power with which
# it falls after them.
HOLD, POWER = 250, 1.1


@dataclass(frozen=True)
class DigitsRun:
    """A learner with its data, in the whitened coordinates in which it trains.

    Attributes:
        learner: The learner.
        train: Batches with fresh dequantisation noise.
        validation: Data of the validation NLL, `(m, 64)`.
        test: Data of the test NLL, `(n, 64)`.
        gaussian_nll: Test NLL of a Gaussian with the training data's covariance, nats.
    """

    learner: Learner
    train: DequantisedBatches
    validation: Tensor
    test: Tensor
    gaussian_nll: float


def digits_run(
    data: ImageData,
    algorithm: str = "jarzynski",
    *,
    num_walkers: int = 1024,
    audit_walkers: int = 1536,
    moves_per_update: int = 5,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    hidden: int = 256,
    ess_threshold: float = 0.5,
    resampler: str = "systematic",
    seed: int = 0,
) -> DigitsRun:
    """Return a learner of a fully connected energy on the digits, ready to fit.

    The moves are MALA, whose weights come from the changes of the parameters alone; the
    learning rate is held and then falls as a power of the update, which keeps the
    optimiser from outrunning the walkers.

    Args:
        data: Digits, from `load_digits`.
        algorithm: `jarzynski`, `pcd` or `cd`.
        num_walkers: Walkers that train the model.
        audit_walkers: Walkers that report its likelihood.
        moves_per_update: MALA moves per update.
        learning_rate: First learning rate of Adam.
        batch_size: Digits per update.
        hidden: Width of the two hidden layers.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1].
        resampler: Resampling scheme.
        seed: Seed of network, walkers and noise.
    """
    one_of("algorithm", algorithm, LEARNERS)
    positive("learning_rate", learning_rate)
    count("batch_size", batch_size)
    generator = stream(seed, "dequantisation")
    # The split and its dequantisation are the same for every seed of the training.
    fixed = stream(0, "fixed dequantisation")
    validation = data.whitening.to_coordinates(data.validation, fixed)
    test = data.whitening.to_coordinates(data.test, fixed)
    train = data.whitening.to_coordinates(data.train, fixed)
    base = Independent(Normal(torch.zeros(64), torch.ones(64)), 1)
    model = EnergyModel(MLP([64, hidden, hidden], seed=seed), base)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (HOLD / max(step, 1)) ** POWER)
    )
    learner = LEARNERS[algorithm](
        model,
        optimizer,
        num_walkers=num_walkers,
        audit_walkers=audit_walkers,
        kernel=MALA(0.3),
        moves_per_update=moves_per_update,
        ess_threshold=ess_threshold,
        resampler=resampler,
        lr_scheduler=scheduler,
        seed=seed,
    )
    batches = DequantisedBatches(data.train, data.whitening, batch_size, generator)
    return DigitsRun(learner, batches, validation, test, gaussian_nll(train, test))


def gaussian_nll(train: Tensor, test: Tensor) -> float:
    """Return the test NLL of the Gaussian with mean and covariance of `train`, nats."""
    known = train.double()
    law = torch.distributions.MultivariateNormal(known.mean(0), torch.cov(known.T))
    return -float(law.log_prob(test.double()).mean())
