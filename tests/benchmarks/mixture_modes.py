"""Masses of 2, 4 and 8 modes in 50 dimensions: weights, and contrastive divergence.

    python tests/benchmarks/mixture_modes.py [--modes 4] [--seeds 5] [--steps 8000]

Modes are pairs at -10 and +6, their masses in proportion to 1, 3, 5, ...; settings are the
published ones but for numbers of walkers and data, and, for more than two modes, for the
start and the learning rates (`mixture_learner`). `--lean` is where the means start: 0.01
is near zero, 1 at the centres of k-means; `--lean 0` is a start at zero, at random.

The mass error is the worst of all modes. The divergence has the exact `log Z`, once on the
data, as the paper has it, where a model that has learned them by heart may be below zero,
and once on 20,000 others. The audit error is that of `log Z`, in nats and in its own
standard errors; `missed` counts modes to which no mean went.
"""

import argparse
import time

from pyro_jarzynski.ebm.networks import GaussianMixtureEnergy
from pyro_jarzynski.experiments.mixture import (
    LEARNERS,
    Mixture,
    MixtureCurves,
    mixture_learner,
)

NUM_OTHERS = 20_000


def run(algorithm: str, num_modes: int, arguments: argparse.Namespace, seed: int) -> str:
    """Train one model and return a row of the table."""
    mixture = Mixture.draw(arguments.size, num_modes=num_modes, seed=seed)
    learner = mixture_learner(
        algorithm,
        mixture=mixture,
        num_walkers=arguments.size,
        audit_walkers=arguments.size,
        lean=arguments.lean,
        seed=seed,
    )
    start = time.process_time()
    learner.fit(mixture.data, arguments.steps, batch_size=None, eval_every=500)
    seconds = time.process_time() - start
    assert isinstance(learner.model, GaussianMixtureEnergy)
    others = Mixture.draw(NUM_OTHERS, num_modes=num_modes, seed=seed + 1000)
    masses, now = mixture.learned_masses(learner.model), MixtureCurves(mixture).now(learner)
    error = max(abs(m - t) for m, t in zip(masses, mixture.masses, strict=True))
    elsewhere = others.divergence(learner.model, now["log_z_exact"])
    audit, sd = now["log_z"] - now["log_z_exact"], now["log_z_error"]
    return (
        f"| {num_modes} | {algorithm} | {seed} | {error:.4f} | {masses.count(0.0)} "
        f"| {now['exact_kl']:.4f} | {elsewhere:.4f} | {audit:+.4f} | {audit / sd:+.1f} "
        f"| {learner.cloud.num_resamplings} | {seconds:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--algorithms", nargs="+", default=list(LEARNERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--size", type=int, default=2000, help="walkers, and data")
    parser.add_argument("--lean", type=float, default=0.01)
    arguments = parser.parse_args()
    print(
        "| modes | algorithm | seed | mass error | missed | KL, data | KL, others "
        "| audit error | in s.e. | resamplings | CPU, s |"
    )
    print("|" + "---|" * 11)
    for num_modes in arguments.modes:
        for algorithm in arguments.algorithms:
            for seed in range(arguments.seeds):
                print(run(algorithm, num_modes, arguments, seed), flush=True)


if __name__ == "__main__":
    main()
