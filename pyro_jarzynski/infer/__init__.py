"""Posterior inference for Pyro models: annealed walkers, evidence, an MCMC kernel."""
