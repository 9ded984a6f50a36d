"""Runs for ArviZ, whatever they are."""

from typing import Any

from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.tracker import LikelihoodTracker
from pyro_jarzynski.errors import ArgumentTypeError
from pyro_jarzynski.infer.result import SMCResult


def to_arviz(run: SMCResult | Learner | LikelihoodTracker, **options: Any) -> Any:
    """Return a run for ArviZ: draws, weights, likelihoods, and how it went.

        tree = pj.to_arviz(result, coords={"school": names})
        arviz.summary(tree); arviz.loo(tree); arviz.plot_trace(tree)

    Args:
        run: A result of `AnnealedSMC.run`, a learner, or a `LikelihoodTracker`.
        **options: Those of its `to_arviz`: `dims`, `coords` and `attrs` of all; `weighted`,
            `log_likelihood`, `posterior_predictive`, `prior_predictive` and `partial` of a
            result; `data`, `num_draws` and `seed` of the others.

    Returns:
        `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

    Raises:
        ArgumentError: There are no draws, the run was interrupted, the model was never
            trained; a name, a label, or an attribute cannot be used.
        MissingDependencyError: ArviZ cannot be imported.
    """
    if not isinstance(run, SMCResult | Learner | LikelihoodTracker):
        raise ArgumentTypeError(
            "`run` must be a result of `AnnealedSMC.run`, a learner or a "
            f"`LikelihoodTracker`, got {type(run).__name__}. What `MCMC` has run goes to "
            "ArviZ by `arviz.from_pyro`, or run `AnnealedSMC` instead."
        )
    return run.to_arviz(**options)
