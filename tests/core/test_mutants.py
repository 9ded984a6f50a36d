"""Every known wrong variant is caught by the checks that should see it."""

import pytest

from pyro_jarzynski.errors import JarzynskiError
from tests.checks import CHECKS, passes
from tests.mutants import MUTANTS

CAUGHT = [(name, check) for name, mutant in MUTANTS.items() for check in mutant.caught_by]
BLIND = [(name, check) for name, mutant in MUTANTS.items() for check in mutant.survives]


def survives(name: str, check: str) -> bool:
    with MUTANTS[name].apply():
        try:
            return passes(check)
        except (JarzynskiError, IndexError):
            return False


@pytest.mark.parametrize(("name", "check"), CAUGHT)
def test_check_catches_mutant(name, check):
    assert not survives(name, check)
    print(f"{name}: caught by {check}")


@pytest.mark.parametrize(("name", "check"), BLIND)
def test_check_is_blind_to_mutant(name, check):
    """Some errors cancel in some identities, so no single identity is enough."""
    assert survives(name, check)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught_by_something(name):
    assert set(MUTANTS[name].caught_by) <= set(CHECKS)
    assert MUTANTS[name].caught_by
