"""The program for a GPU: its tests on a pretended one, and its measurements on a CPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.core.noise import stream
from tests.gpu import pretended, speed

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(pretended.SETUP is None, reason="torch has no devices in Python here")
def test_on_a_pretended_device(capsys):
    """In a process of its own, which has the device from the beginning."""
    command = [sys.executable, "-m", "tests.gpu", "--pretended", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    number = re.search(r"(\d+) passed", done.stdout)
    assert number, done.stdout[-2_000:]
    assert "skipped" not in done.stdout
    with capsys.disabled():
        print(f"\n{number[1]} tests passed on a pretended device.")


def test_the_measurements_of_a_gpu():
    """Run the benchmarks of a GPU on the CPU, with small sizes."""
    generator = stream(0, "images")
    images = torch.randint(256, (40, 1, 28, 28), generator=generator).to(torch.uint8)
    labels = torch.arange(40) % 2
    data = pj.LabelledImages(images, labels, images, labels, ("zero", "one"))
    walkers = {"num_walkers": 16, "audit_walkers": 8, "leapfrog_steps": 1}
    settings = {"rank": 3, "features": 2, "batch_size": 16, "start": "equal"}
    sizes = speed.Sizes(
        programs={"example": "import torch; torch.ones(2)"},
        num_updates=1,
        num_walkers=[400],
        patience=0.0,
        image_settings=settings | walkers,
    )
    with torch.random.fork_rng():
        rows = list(speed.measure(torch.device("cpu"), data, sizes))
    assert [row.what for row in rows] == [
        "README, example",
        "`train digits`, 1 updates",
        "`AnnealedSMC`, 400 walkers",
        "digits zero, one, 40 images, one update",
    ]
    assert len(speed.table(rows).splitlines()) == len(rows) + 2
