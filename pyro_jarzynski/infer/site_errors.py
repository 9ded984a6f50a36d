"""Errors of Pyro and torch at a site, told with its name."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pyro.poutine.runtime import apply_stack

from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.enumeration import Site
from pyro_jarzynski.infer.sites import innermost

# What distributions raise where they lack a sampler, a density or a shape.
SITE_ERRORS = (
    NotImplementedError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
)


@contextmanager
def named_errors() -> Iterator[None]:
    """Name the site where an error is raised inside of Pyro's treatment of a site.

    Errors of a model's own code are passed on.

    Raises:
        ModelError: Names the site.
    """
    try:
        yield
    except ModelError:
        raise
    except SITE_ERRORS as error:
        site = site_of(error)
        if site is None:
            raise
        raise unusable(site, error) from error


def unusable(site: Site, error: Exception) -> ModelError:
    """Return the error of a site whose distribution cannot be used."""
    kind = type(innermost(site["fn"])).__name__
    told = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
    return ModelError(
        f"The site {site['name']!r} cannot have the distribution {kind} ({told}). If it "
        "cannot be expanded, give its parameters the shape of its plates and take it out "
        "of them by `.to_event()`. If it lacks a sampler or a density, take another one, "
        "or rewrite the site by `poutine.reparam`."
    )


def site_of(error: Exception) -> Site | None:
    """Return the site at which an error was raised, if it was at one."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is apply_stack.__code__:
            found = frame.f_locals["initial_msg"]
        elif frame.f_globals.get("__name__", "").startswith("pyro_jarzynski."):
            found = frame.f_locals.get("site", found)
    return found
