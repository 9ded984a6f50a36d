"""The training runs of the command line, as functions."""
