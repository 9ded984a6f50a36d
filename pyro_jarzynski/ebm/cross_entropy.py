"""The gradient of the cross-entropy, from data and from walkers.

∂_θ H = E_data[∂_θ U_θ] - E_ρθ[∂_θ U_θ]
"""

import math
from typing import NoReturn

from torch import Tensor

from pyro_jarzynski.core.faults import read
from pyro_jarzynski.ebm.data import ON_THE_EDGE, Batches, find_nonfinite
from pyro_jarzynski.ebm.gradient import Gather, data_gradient, walker_gradient
from pyro_jarzynski.ebm.module_modes import as_checked
from pyro_jarzynski.ebm.sliced_gradient import norm_of
from pyro_jarzynski.ebm.training_state import TrainingState
from pyro_jarzynski.errors import DataError, NonFiniteEnergyError


class CrossEntropy(TrainingState):
    """A training that knows the gradient of its objective."""

    @as_checked
    def gradient_now(self) -> list[Tensor]:
        """Return `E_ρ[∂_θ U]` at the walkers as they are, by a pass of its own."""
        return walker_gradient(
            self.model,
            self.cloud.active,
            self.parameters,
            weighted=self.weighted,
            tools=self.cloud.tools,
        )

    def gradient_from(self, gather: Gather) -> list[Tensor]:
        """Return what was gathered on the way; a NaN at a dropped walker spoils that."""
        slopes = gather.mean(self.cloud.team)
        return slopes if gather.is_finite(slopes) else self.gradient_now()

    def _differentiate(self, batch: Tensor, batches: Batches) -> tuple[float, float]:
        """Set the gradients; return the mean energy of the data and their norm."""
        self.optimizer.zero_grad()
        team = self.cloud.team
        energy, positive = data_gradient(self.model, batch, self.parameters, team)
        slopes = [p - n for p, n in zip(positive, self._negative, strict=True)]
        for parameter, slope in zip(self.parameters, slopes, strict=True):
            parameter.grad = slope
        mean, norm = read(energy, norm_of(slopes, team.ranks))
        if not math.isfinite(norm + mean):
            self._raise_nonfinite(batch, batches)
        return mean, norm

    def _raise_nonfinite(self, batch: Tensor, batches: Batches) -> NoReturn:
        """Raise, and name the data whose energy is not finite, if there are any."""
        step = self.num_steps + 1
        after = "Parameters and walkers are those before."
        found = find_nonfinite(self.audit.energies("`data`", batch))
        if found is not None and found.has_density_zero:
            raise DataError(
                f"The model has density zero in update {step} at {found.rows} of the "
                f"batch{batches.located(batch[found.mask])}. {ON_THE_EDGE} {after}"
            )
        what = "gradient" if found is None else f"energy, {found.value} at {found.rows},"
        raise NonFiniteEnergyError(
            f"The {what} of the data is not finite in update {step}: training diverged. "
            f"Use a smaller learning rate or more moves per update. {after}"
        )
