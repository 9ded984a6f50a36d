"""Pyro's own tests of MCMC, with `JarzynskiKernel` in the place of HMC and NUTS.

    python tests/benchmarks/pyro_mcmc_tests.py CHECKOUT [--seed 0] [--kernel pyro] [...]

`CHECKOUT` is a clone of github.com/pyro-ppl/pyro at the version that is installed. Options
of HMC and NUTS are ignored, and so are tests that only vary them. Each test is seeded,
since most compare a posterior mean with the parameter that made the data: with the data of
some seeds Pyro's kernels fail as well, which `--kernel pyro` shows. Further arguments are
pytest's.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from one_core import one_core

one_core()
import pyro  # noqa: E402
import pyro.infer.mcmc.hmc  # noqa: E402
import pyro.infer.mcmc.nuts  # noqa: E402
import pytest  # noqa: E402

from pyro_jarzynski import JarzynskiKernel  # noqa: E402

# Parts of the names of tests that are left out.
LEFT_OUT = {
    "have potential functions or initial points in place of models": (
        "test_predictive",
        "test_init_to_value",
        "test_init_strategy",
        "unnormalized_normal",
        "null_model",
        "potential_fn",
    ),
    "look into Pyro's kernels": (
        "structured_mass",
        "arrowhead_mass",
        "singular_matrix",
        "test_adaptation",
        "test_rwkernel",
    ),
    "have no kernel, or one of their own": (
        "log_prob",
        "enumeration_in",
        "test_mcmc_interface",
        "test_num_chains",
        "test_mcmc_diagnostics",
    ),
    "vary options of HMC and NUTS alone": (
        "JIT=True",
        "-True]",
        "options1-",
        "kwargs1]",
        "-xy1]",
        "logistic_regression[False-",
        "logistic_regression[None",
        "logistic_regression[0.0855-None-4-False-True",
        "beta_bernoulli[0.5",
        "beta_bernoulli[None",
        "gamma_normal[False-",
    ),
    "use what `MCMC.run` returns, which is nothing": ("hmc_conjugate_gaussian",),
}


class Kernel(JarzynskiKernel):
    """A kernel that ignores the options of HMC and NUTS."""

    def __init__(self, model: Any, **options: Any) -> None:
        """Take the model alone."""
        del options
        super().__init__(model)


class Plugin:
    """Chooses the tests, and seeds each."""

    def __init__(self, seed: int) -> None:
        """Keep the seed."""
        self.seed = seed

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Leave tests out, and run those that are marked to be skipped as slow."""
        names = [part for parts in LEFT_OUT.values() for part in parts]
        gone = [item for item in items if any(name in item.nodeid for name in names)]
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=gone)
        for item in items:
            item.own_markers = [mark for mark in item.own_markers if mark.name != "skip"]

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(self) -> None:
        """Seed a test."""
        pyro.set_rng_seed(self.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernel", choices=["jarzynski", "pyro"], default="jarzynski")
    chosen, rest = parser.parse_known_args()
    if chosen.kernel == "jarzynski":
        mcmc = pyro.infer.mcmc
        for module in (pyro.infer, mcmc, mcmc.hmc, mcmc.nuts):
            for name in {"HMC", "NUTS"} & vars(module).keys():
                setattr(module, name, Kernel)
    folder = chosen.checkout.resolve()
    os.chdir(folder)
    # Its `tests` in the place of ours.
    sys.path.insert(0, str(folder))
    options = ["-q", "-rA", "--durations=0", "-W", "ignore", "-p", "no:cacheprovider"]
    sys.exit(pytest.main([*options, *rest, "tests/infer/mcmc"], [Plugin(chosen.seed)]))


if __name__ == "__main__":
    main()
