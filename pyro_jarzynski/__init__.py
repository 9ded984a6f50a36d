"""Jarzynski-weighted sequential Monte Carlo for Pyro."""
