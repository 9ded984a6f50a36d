"""Diagnostics of weighted draws, and their exchange with ArviZ."""
