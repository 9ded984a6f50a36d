"""A run of a few numbers, whose checkpoints take no time, and a disk that fails."""

import errno
import os
from typing import Any

import torch

import pyro_jarzynski as pj
from pyro_jarzynski.runtime import disk

STEP = "step-{:012d}"


class Counter:
    """A run that counts; every number of it tells which step it was."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        grid = torch.arange(12.0).reshape(3, 4) + self.step
        return {
            "step": self.step,
            "grid": grid,
            "turned": grid.mT,
            "rest": (self.step / 3, float("nan"), None, {0: [True, "é"]}),
            "weights": torch.full((5,), self.step, dtype=torch.float64),
            "empty": torch.empty(0, 3),
        }

    def load_state_dict(self, state: Any) -> None:
        expected = {key: type(value) for key, value in self.state_dict().items()}
        assert {key: type(value) for key, value in state.items()} == expected
        step = state["step"]
        assert torch.equal(state["weights"], torch.full((5,), step, dtype=torch.float64))
        assert torch.equal(state["grid"], torch.arange(12.0).reshape(3, 4) + step)
        assert torch.equal(state["turned"], state["grid"].mT)
        self.step = step

    def count_to(self, last: int, checkpoints: pj.Checkpoints) -> "Counter":
        with checkpoints.opened(self) as keep:
            while self.step < last:
                self.step += 1
                keep(self.step)
        return self


def count(folder: Any, last: int, *, resume: bool = False, every: int = 1) -> Counter:
    return Counter().count_to(last, pj.Checkpoints(folder, every=every, resume=resume))


class Died(BaseException):
    """The process was killed: nothing is done any more."""


class FailingDisk:
    """The calls of `os` that change a disk, of which one fails.

    Args:
        at: The call that fails, counted from 0; `None` only counts.
        how: `"error"` is an error of the disk, after which all is well; `"full"` is one
            from there on; `"before"` and `"after"` kill the process at the call; `"half"`
            kills it when half of what is to be written is.

    Nothing waits for the real disk: `fsync` is only counted.
    """

    CALLS = (
        *("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir"),
        *("link", "replace"),
    )

    def __init__(self, at: int | None, how: str = "error") -> None:
        self.at, self.how, self.num, self.dead = at, how, 0, False
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        known = getattr(os, name) if name != "fsync" else lambda file: None
        return self._wrapped(name, known) if name in self.CALLS else known

    def _wrapped(self, name: str, known: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            number, self.num = self.num, self.num + 1
            self.called.append(name)
            if self.dead:
                raise Died
            if self.at is None or number < self.at:
                return known(*args, **settings)
            if self.how == "full" and name in ("write", "mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if number > self.at or self.how == "full":
                return known(*args, **settings)
            return self._fail(name, known, args, settings)

        return call

    def _fail(self, name: str, known: Any, args: Any, settings: Any) -> Any:
        if self.how == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.dead = True
        if self.how == "after":
            known(*args, **settings)
        elif self.how == "half" and name == "write":
            known(args[0], bytes(args[1])[: len(args[1]) // 2])
        raise Died


def use(monkeypatch: Any, failing: FailingDisk) -> FailingDisk:
    monkeypatch.setattr(disk, "os", failing)
    return failing
