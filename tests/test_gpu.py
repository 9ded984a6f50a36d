"""The tests of a GPU, on a pretended one: in a process that has it from the beginning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import pretended

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(pretended.SETUP is None, reason="torch has no devices in Python here")
def test_on_a_pretended_device():
    command = [sys.executable, "-m", "tests.gpu", "--pretended", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    number = re.search(r"(\d+) passed", done.stdout)
    assert number, done.stdout[-2_000:]
    print(f"{number[1]} tests on a pretended device")
    assert "skipped" not in done.stdout
