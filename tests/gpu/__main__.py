"""The package on a GPU: what is right, then what is fast.

python -m tests.gpu                 on `cuda`
python -m tests.gpu --pretended     what is right, on a pretended device, by a CPU
"""

import argparse
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import pretended

FOLDER = Path(__file__).parent
# Tests elsewhere that need a real device.
OF_CUDA = ["tests/core/test_waits.py", "tests/distributed"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--pretended", action="store_true", help="run on a CPU")
    options, more = parser.parse_known_args()
    name = pretended.NAME if options.pretended else "cuda"
    if name == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; `--pretended` runs the tests on a CPU")
    return pytest.main([str(FOLDER), "--device", name, *more])


if __name__ == "__main__":
    sys.exit(main())
