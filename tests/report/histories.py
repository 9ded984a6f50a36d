"""Histories of made-up runs, and what was drawn of them."""

import math

from pyro_jarzynski.ebm.history import COLUMNS, History


def made_up(num_rows=30, *, without=(), **columns):
    """A history that descends smoothly; `without` are NaN, `columns` replace others."""
    history = History()
    for index in range(num_rows):
        row = {name: 0.3 + 0.01 * index + 0.02 * k for k, name in enumerate(COLUMNS)}
        row |= {
            "step": 10 * (index + 1),
            "resamplings": index,
            "audit_resamplings": 2 * index,
        }
        row |= {"train_nll": 90 - 0.5 * index, "validation_nll": 91 - 0.4 * index}
        row |= {name: values[index] for name, values in columns.items()}
        history.append(**(row | dict.fromkeys(without, math.nan)))
    return history


def labels(ax):
    """Entries of the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    """The curve with that entry."""
    return next(each for each in ax.get_lines() if each.get_label() == label)
