"""Runs for ArviZ, whatever they are."""

from typing import Any

from pyro.infer import MCMC

from pyro_jarzynski.ebm.latent import LatentLikelihood
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.tracker import LikelihoodTracker
from pyro_jarzynski.errors import ArgumentTypeError
from pyro_jarzynski.infer.export.mcmc import mcmc_to_arviz
from pyro_jarzynski.infer.result import SMCResult


def to_arviz(
    run: SMCResult | Learner | LikelihoodTracker | LatentLikelihood | MCMC, **options: Any
) -> Any:
    """Return a run for ArviZ: draws, weights, likelihoods, and how it went.

        tree = pj.to_arviz(result, coords={"schools": names})
        arviz.summary(tree); arviz.loo(tree); arviz.plot_trace(tree)

    Args:
        run: A result of `AnnealedSMC.run`, a learner, a `LikelihoodTracker`, a
            `LatentLikelihood`, or what `pyro.infer.MCMC` has run with any kernel, NUTS
            included.
        **options: Those of its `to_arviz`: `dims`, `coords` and `attrs` of all; `weighted`
            and `partial` of a result; `log_likelihood`, `posterior_predictive` and
            `prior_predictive` of a result and of `MCMC`; `data` and `num_draws` of a
            learner, tracker or latent likelihood; `seed` of new draws.

    Returns:
        `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

    Raises:
        ArgumentError: There are no draws, the run was interrupted, the model was never
            trained; a name, a label, or an attribute cannot be used.
        MissingDependencyError: ArviZ cannot be imported.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> tracker = pj.LikelihoodTracker(model, num_walkers=64)
        >>> tree = pj.to_arviz(tracker, num_draws=50)
        >>> dict(tree["posterior"]["x"].sizes)
        {'chain': 1, 'draw': 50, 'x_dim_0': 2}
    """
    if isinstance(run, MCMC):
        return mcmc_to_arviz(run, **options)
    if not isinstance(run, SMCResult | Learner | LikelihoodTracker | LatentLikelihood):
        raise ArgumentTypeError(
            "`run` must be a result of `AnnealedSMC.run`, a learner, a "
            "`LikelihoodTracker`, a `LatentLikelihood` or a `pyro.infer.MCMC`, got "
            f"{type(run).__name__}."
        )
    return run.to_arviz(**options)
