"""The statistical checks with fresh seeds; run with `python -m tests.nightly`."""
