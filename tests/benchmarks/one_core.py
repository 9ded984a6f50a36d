"""One thread for every library, set before any of them is imported.

JAX has no such setting of its own at run time: it gets flags of XLA, and the process is
pinned to one core, which also holds for what ignores flags.
"""

import os

FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def one_core(core: int | None = None) -> None:
    """Pin this process to a core, the last of those it may use if none is named."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["XLA_FLAGS"] = FLAGS
    os.environ["JAX_PLATFORMS"] = "cpu"
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1] if core is None else core})
