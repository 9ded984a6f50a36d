"""The engine keeps every identity; each check states its false-alarm rate."""

import pytest

from tests.checks import CHECKS, passes


@pytest.mark.parametrize("name", CHECKS)
def test_identity(name):
    assert passes(name)
