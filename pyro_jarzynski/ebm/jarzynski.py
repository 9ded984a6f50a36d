"""Training an energy-based model with walkers whose weights follow its parameters."""

from pyro_jarzynski.core.faults import read
from pyro_jarzynski.ebm.data import Batches
from pyro_jarzynski.ebm.gradient import gather_for
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.updates import Advance


class JarzynskiLearner(Learner):
    """Trains a model with walkers whose weights follow its parameters.

    The gradient of the cross-entropy is `E_data[∂_θ U_θ] - Σ_i W_i ∂_θ U_θ(X_i)`, with the
    normalised weights `W` of the walkers.

    Each update: gradient of the data and of the weighted walkers, optimiser, then every
    walker is carried to the new parameters with its exact weight, and the cloud is
    resampled if its effective sample size is low. Energies of the walkers are evaluated
    once per move; the gradient of the parameters shares that pass.

    Args:
        model: `EnergyModel`, or any `StartableEnergy` module. Ranks may have cut it by
            torch's `fully_shard`.
        optimizer: Any torch optimiser over the parameters of the model whose steps need no
            closure.
        num_walkers: Walkers `N` that train the model.
        audit_walkers: Walkers that only follow, and give every likelihood reported.
        kernel: How walkers move. The step size of MALA and HMC is adapted.
        moves_per_update: Moves of every walker per update.
        walker_batch_size: Walkers that follow each update: independent blocks that take
            turns. The weights of the others telescope, and are evaluated when they are
            needed, so that an update costs one block. `None` moves all.
        audit_every: Updates that the audit follows at once; `None` is as many as there are
            blocks, so that the walkers of both clouds move equally often.
        conditional_ess: Conditional effective sample size, as a fraction, below which the
            steps of the optimiser are shortened, so that walkers can follow. `None` leaves
            them as they are, and so do kernels without an acceptance step.
        renewal: How often walkers are renewed by fresh ones, annealed from the base: the
            audit, and one block of several. They find mass that no walker met. `None`
            never does.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1].
        resampler: A name or function of `core.resampling`.
        lr_scheduler: Any torch scheduler of the optimiser, stepped once per update. One
            that needs a score, as `ReduceLROnPlateau` does, can be a callback.
        seed: Seed of walkers, audit walkers and data order.
        chunk_size: Walkers per call of the model; `"auto"` takes as many as a cache holds,
            or a part of the memory of a GPU; `None` takes all at once.
        jit_compile: Whether to compile the moves of ULA and MALA, which takes seconds and
            makes those of small networks up to 1.6 times faster; convolutions gain nothing.
        start_temperatures: Steps of the inverse temperature by which the first walkers are
            annealed from the base to a model that is trained already, such as one that
            `load_model` returns; `None` draws them, which needs a model that can be drawn.

    Raises:
        ArgumentError: A number is out of its range, the optimiser misses parameters or
            needs a closure, or the scheduler needs a score or is of another optimiser.
        EnergyError: The energy couples walkers, is random, or has a wrong shape.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, Algorithm 1.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        >>> learner = pj.JarzynskiLearner(model, optimizer, seed=1)
        >>> data = pj.toy("moons", 100)
        >>> history = learner.fit(data, 4, eval_every=2)
        >>> history["step"]
        [2, 4]
        >>> learner.nll(data)._fields
        ('nll', 'log_normalizer_error', 'data_error')
        >>> learner.sample(5).shape
        torch.Size([5, 2])
    """

    def begin(self, batches: Batches) -> None:
        """Leave the walkers where they are: exact draws of the model at its start."""

    def advance(self, batches: Batches) -> Advance:
        """Carry the weighted walkers to the new parameters."""
        gather = gather_for(self.parameters, self.cloud.team)
        info = self.cloud.follow(gather)
        size = len(info.log_weight)
        rate, ess, conditional = read(info.acceptance_rate, info.ess, info.conditional_ess)
        return Advance(self.gradient_from(gather), rate, ess / size, conditional / size)
