"""An energy-based model of real handwritten digits, in under a minute on one core."""

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
from pyro_jarzynski.ebm.optimizers import muon_and_adam
from pyro_jarzynski.errors import count, one_of, positive
from pyro_jarzynski.experiments.mixture import LEARNERS

# Share of the updates for which the learning rates stay at their first values.
HOLD = 1 / 8


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
    num_steps: int = 1600,
    num_walkers: int = 4096,
    walker_batch_size: int = 512,
    audit_walkers: int = 1536,
    moves_per_update: int = 5,
    matrix_learning_rate: float = 0.02,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.3,
    batch_size: int = 256,
    hidden: int = 256,
    ess_threshold: float = 0.5,
    resampler: str = "systematic",
    seed: int = 0,
    jit_compile: bool = False,
) -> DigitsRun:
    """Return a learner of a fully connected energy on the digits, ready to fit.

    The moves are MALA, whose weights come from the changes of the parameters alone.
    Matrices are trained by Muon and all else by Adam; their learning rates are held and
    then fall to zero in a line. 1,257 digits are few, so that matrices decay.

    Args:
        data: Digits, from `load_digits`.
        algorithm: `jarzynski`, `pcd` or `cd`.
        num_steps: Updates at which the learning rates come to zero.
        num_walkers: Walkers that train the model, in blocks that take turns.
        walker_batch_size: Walkers of a block, at most all; contrastive divergence has no
            others.
        audit_walkers: Walkers that report its likelihood.
        moves_per_update: MALA moves per update.
        matrix_learning_rate: First learning rate of Muon.
        learning_rate: First learning rate of Adam.
        weight_decay: Decay of the matrices.
        batch_size: Digits per update.
        hidden: Width of the two hidden layers.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1].
        resampler: Resampling scheme.
        seed: Seed of network, walkers and noise.
        jit_compile: Whether to compile the moves.
    """
    one_of("algorithm", algorithm, LEARNERS)
    count("num_steps", num_steps)
    positive("matrix_learning_rate", matrix_learning_rate)
    positive("learning_rate", learning_rate)
    count("batch_size", batch_size)
    device = data.train.device
    generator = stream(seed, "dequantisation", device)
    # The split and its dequantisation are the same for every seed of the training.
    fixed = stream(0, "fixed dequantisation", device)
    validation = data.whitening.to_coordinates(data.validation, fixed)
    test = data.whitening.to_coordinates(data.test, fixed)
    train = data.whitening.to_coordinates(data.train, fixed)
    zero = torch.zeros(64, device=device)
    base = Independent(Normal(zero, torch.ones_like(zero)), 1)
    model = EnergyModel(MLP([64, hidden, hidden], seed=seed).to(device), base)
    optimizer = muon_and_adam(
        model,
        matrix_learning_rate=matrix_learning_rate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _share_left(step / num_steps)
    )
    block = min(count("walker_batch_size", walker_batch_size), num_walkers)
    learner = LEARNERS[algorithm](
        model,
        optimizer,
        num_walkers=block if algorithm == "cd" else num_walkers,
        walker_batch_size=None if algorithm == "cd" else block,
        audit_walkers=audit_walkers,
        kernel=MALA(0.3),
        moves_per_update=moves_per_update,
        ess_threshold=ess_threshold,
        resampler=resampler,
        lr_scheduler=scheduler,
        seed=seed,
        jit_compile=jit_compile,
    )
    batches = DequantisedBatches(data.train, data.whitening, batch_size, generator)
    return DigitsRun(learner, batches, validation, test, gaussian_nll(train, test))


def _share_left(done: float) -> float:
    """Return the share of the learning rates that is left when so much is done."""
    return min(1.0, max(0.0, (1 - done) / (1 - HOLD)))


def gaussian_nll(train: Tensor, test: Tensor) -> float:
    """Return the test NLL of the Gaussian with mean and covariance of `train`, nats."""
    known = train.double()
    law = torch.distributions.MultivariateNormal(known.mean(0), torch.cov(known.T))
    return -float(law.log_prob(test.double()).mean())
