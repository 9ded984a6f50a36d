"""The exact engine: weighted walkers, kernels, paths, resampling. Pure torch."""
