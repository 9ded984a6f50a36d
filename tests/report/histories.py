"""Histories of made-up runs."""

import math

from pyro_jarzynski.ebm.history import COLUMNS, History


def made_up(num_rows=30, *, without=(), **columns):
    """A history that descends smoothly; `without` are NaN, `columns` replace others."""
    history = History()
    for index in range(num_rows):
        row = dict.fromkeys(COLUMNS, 0.5 + 0.01 * index)
        row |= {"step": 10 * (index + 1), "resamplings": index, "audit_resamplings": index}
        row |= {"train_nll": 90 - 0.5 * index, "validation_nll": 91 - 0.4 * index}
        row |= {name: values[index] for name, values in columns.items()}
        history.append(**(row | dict.fromkeys(without, math.nan)))
    return history
