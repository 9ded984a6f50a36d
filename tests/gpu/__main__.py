"""The package on a GPU: first what is right, then what is fast.

    python -m tests.gpu                 on `cuda`, in under ten minutes
    python -m tests.gpu --pretended     what is right, on a pretended device, by a CPU

Further options are those of pytest.
"""

import argparse
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.gpu import pretended

FOLDER = Path(__file__).parent
# Tests elsewhere that need a real device, with `gpu` in their names.
OF_CUDA = [str(FOLDER.parent / name) for name in ("core/test_waits.py", "distributed")]
# Seconds of the program after which no further measurement begins.
LIMIT = 480.0


def main() -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pretended", action="store_true", help="run on a CPU")
    parser.add_argument("--fast", action="store_true", help="only what is fast")
    options, more = parser.parse_known_args()
    if options.pretended:
        return pytest.main([str(FOLDER), "--device", pretended.NAME, *more])
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here; `--pretended` runs the tests on a CPU")
    if not options.fast:
        failed = pytest.main([str(FOLDER), "--device", "cuda", *more])
        failed = failed or pytest.main([*OF_CUDA, "-k", "gpu", *more])
        if failed:
            return failed
    show_speed(torch.device("cuda", torch.cuda.current_device()), start + LIMIT)
    return 0


def show_speed(device: torch.device, end: float) -> None:
    """Print the table of what is fast, row by row as they come and then as a whole.

    Args:
        device: The GPU.
        end: Time of `time.monotonic` after which no further measurement begins.
    """
    from tests.gpu.speed import MNIST, Sizes, digits_of_the_paper, measure, table

    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}")
    images = digits_of_the_paper()
    if images is None:
        print(f"no training on digits: no files of MNIST in {MNIST[0]}")
    rows = []
    for row in measure(device, images, Sizes()):
        print(row, flush=True)
        rows.append(row)
        if time.monotonic() > end:
            print(f"after {LIMIT:.0f} s nothing more is measured")
            break
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
