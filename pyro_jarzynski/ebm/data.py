"""Training data: checked once, and served in seeded, shuffled batches."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.digests import digest
from pyro_jarzynski.core.noise import set_state
from pyro_jarzynski.ebm.loader_state import LoaderState
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
)

# What to do about data at which the model has density zero.
ON_THE_EDGE = (
    "Data outside the support of the base, or on its edge (a pixel of exactly 1.0), have "
    "an infinite energy whatever the network is: leave these rows out, move them inside, "
    "or use a base with density there."
)
# What to do about a loader whose order a resumed run cannot repeat.
REPEATABLE = (
    "Random numbers must come from the global generators of torch, NumPy and Python, or "
    "from generators and whole numbers in attributes of the loader, its sampler, or its "
    "data set; shuffle a copy of a list, and use no `persistent_workers` for random "
    "augmentation. Or give the loader `state_dict` and `load_state_dict`."
)


def check_data(name: str, data: object, walkers: Tensor, support: Any = None) -> Tensor:
    """Return data `(n, *event)` that fit the walkers, or raise and name what does not.

    Args:
        name: What they are called, as in "`data`".
        data: The data.
        walkers: Walkers of the model, of whose shape, dtype and device data must be.
        support: Constraint on data of a model of discrete units; others are checked by
            their energy.
    """
    event = ", ".join(map(str, walkers.shape[1:])) or "…"
    if not isinstance(data, Tensor):
        raise ArgumentTypeError(
            f"{name} must be a tensor of shape (n, {event}), got {type(data).__name__}; "
            f"{_conversion(data, walkers.dtype)}."
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(data):
        raise ArgumentError(
            f"{name} is within a transform of `torch.func`, such as vmap or grad, which "
            "walkers cannot follow; call this outside of it, or use the energy itself."
        )
    if data.ndim == 0 or len(data) == 0:
        raise DataError(f"{name} is empty: got shape {tuple(data.shape)}.")
    if data.shape[1:] != walkers.shape[1:]:
        raise DataError(
            f"{name} must have shape (n, {event}), as the walkers do; got "
            f"{tuple(data.shape)}."
        )
    if data.dtype != walkers.dtype:
        raise ArgumentTypeError(
            f"{name} must have the dtype of the walkers, {walkers.dtype}, got "
            f"{data.dtype}; scale whole numbers to the range of the model and call "
            f"`.to({walkers.dtype})`."
        )
    if data.device != walkers.device:
        raise ArgumentError(
            f"{name} must be on the device of the walkers, {walkers.device}, got "
            f"{data.device}; call `.to({str(walkers.device)!r})`."
        )
    bad = ~torch.isfinite(data.reshape(len(data), -1)).all(1)
    if bad.any():
        raise DataError(f"{name} has NaN or infinity in {rows_named(bad)}.")
    if support is not None and support.is_discrete:
        bad = ~support.check(data)
        if bad.any():
            raise DataError(
                f"{name} must lie in the support of the model, {support}; it does not in "
                f"{rows_named(bad)}. Binarise grey levels: `(x > 0.5).to(x.dtype)`."
            )
    return data


def collected(
    name: str, data: Tensor | Iterable, walkers: Tensor, support: Any = None
) -> Tensor:
    """Return data as one tensor `(n, *event)`: themselves, or all batches of a loader.

    Arguments are those of `check_data`.
    """
    if isinstance(data, Tensor):
        return _plain(check_data(name, data, walkers, support))
    check_iterable(name, data, walkers)
    batches = [check_batch(name, batch, walkers, support) for batch in data]
    if not batches:
        raise DataError(f"{name} is empty: the loader yields no batch.")
    return torch.cat(batches)


def check_iterable(name: str, data: object, walkers: Tensor) -> None:
    """Raise if what is no tensor is no iterable of batches either."""
    if hasattr(data, "__array__") or isinstance(data, str | bytes | Mapping):
        check_data(name, data, walkers)
    if not isinstance(data, Iterable):
        raise ArgumentTypeError(
            f"{name} must be a tensor or an iterable of batches (a DataLoader), got "
            f"{type(data).__name__}."
        )


def check_batch(name: str, batch: object, walkers: Tensor, support: Any = None) -> Tensor:
    """Return the data of a batch of a loader: the batch, or the first entry of a tuple."""
    rows = batch
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        rows = batch[0]
    if isinstance(rows, Tensor) and rows.device.type == "cpu":
        # Processes that load data leave them on the CPU.
        rows = rows.to(walkers.device, non_blocking=True)
    return _plain(check_data(f"A batch of {name}", rows, walkers, support))


def rows_named(bad: Tensor) -> str:
    """Return how many rows of a mask `(n,)` are set, and which."""
    rows = bad.nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return f"{len(rows)} of {len(bad)} rows: {shown}"


class NonFinite(NamedTuple):
    """Data at which the energy of a model is not finite.

    Attributes:
        value: `"NaN"`, `"minus infinity"` or `"plus infinity"`, which is density zero.
        rows: How many rows they are, and which.
        mask: The rows, `(n,)`.
    """

    value: str
    rows: str
    mask: Tensor

    @property
    def has_density_zero(self) -> bool:
        """Whether all other rows have a density: none is NaN or infinite."""
        return self.value == "plus infinity"


def find_nonfinite(energies: Tensor) -> NonFinite | None:
    """Return the worst kind of energies `(n,)` that are not finite, if there are any."""
    kinds = {
        "NaN": energies.isnan(),
        "minus infinity": energies.isneginf(),
        "plus infinity": energies.isposinf(),
    }
    for value, mask in kinds.items():
        if mask.any():
            return NonFinite(value, rows_named(mask), mask)
    return None


def _conversion(data: object, dtype: torch.dtype) -> str:
    """Return how to make a tensor of what is none."""
    if isinstance(data, Mapping):
        keys = ", ".join(map(repr, data))
        return f"take the tensor out of it, which has the keys {keys}"
    if hasattr(data, "__array__"):
        return f"use `torch.tensor(numpy.asarray(…), dtype={dtype})`"
    if isinstance(data, Iterable) and not isinstance(data, list | tuple | str | bytes):
        return "join its batches by `torch.cat`"
    return "use `torch.as_tensor`"


def _plain(data: Tensor) -> Tensor:
    """Return data that gradients can pass through, wherever they were made."""
    return data.clone() if data.is_inference() else data


class Position(NamedTuple):
    """A position in the data.

    Attributes:
        began: State when the epoch began.
        taken: Batches of the epoch so far.
        before: State before the last of them.
        last: The last of them.
    """

    began: dict[str, Any]
    taken: int
    before: dict[str, Any]
    last: Tensor


class Batches:
    """An endless stream of batches from a tensor or from a loader.

    Its position is saved as the state of the loader when the epoch began and the number
    of batches taken since. To restore it, the epoch is begun again and these batches are
    passed over. The last of them must be the same to the bit, and otherwise the loader
    cannot be resumed.

    Args:
        data: Tensor `(n, *event)`, or an iterable of batches (a DataLoader); of a batch
            that is a tuple the first entry is taken; it is moved to the walkers' device.
        batch_size: Rows per batch of a tensor; `None` takes all rows every time.
        walkers: Walkers, whose shape and dtype the data must have.
        generator: Shuffles a tensor anew in every epoch.
        support: As of `check_data`.
        rank: Number of this process, each of which has a loader of its own.
    """

    def __init__(
        self,
        data: Tensor | Iterable,
        batch_size: int | None,
        walkers: Tensor,
        generator: torch.Generator,
        support: Any = None,
        *,
        rank: int = 0,
    ) -> None:
        """Check a tensor at once; batches of a loader are checked as they come."""
        self.data, self.walkers, self.generator = data, walkers[:1], generator
        self.support, self.rank = support, rank
        self.loader: LoaderState | None = None
        if isinstance(data, Tensor):
            self.data = _plain(check_data("`data`", data, walkers, support))
        else:
            check_iterable("`data`", data, walkers)
            self.loader = LoaderState(data)
        self.batch_size = batch_size
        self._epoch: Iterator[Tensor] | None = None
        self._entry = self._state()
        self._now: dict[str, Any] | None = None
        self.position = Position(self._entry, 0, self._entry, self.walkers)
        self._num_loaded = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Return this stream."""
        return self

    def __next__(self) -> Tensor:
        """Return the next batch; there always is one."""
        began, taken, _, _ = self.position
        # If this fails, the position is the present one.
        self._now = self._entry = before = self._state()
        batch = None if self._epoch is None else next(self._epoch, None)
        if batch is None:
            began = before = self._state()
            self._epoch, taken = self._begin(), 0
            batch = next(self._epoch)
        self.position, self._now = Position(began, taken + 1, before, batch), None
        return batch

    def back_to(self, position: Position) -> None:
        """Go back to the position before the last batch, if that was taken."""
        if self.position is not position:
            self.position, self._now = position, self._entry

    def close(self) -> None:
        """End the epoch, and with it the processes that load its batches."""
        self._epoch = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data.

        Raises:
            ArgumentError: A loader gives other batches when it is begun again.
        """
        if self._epoch is None:
            self._check_repeatable()
        began, taken, before, last = self.position
        now = self._state() if self._now is None else self._now
        state = {
            "taken": taken,
            "began": began,
            "before": before,
            "last": digest(last),
            "now": now,
        }
        if self.loader is not None:
            state["constants"] = self.loader.constants(now["loader"]["numbers"])
        return {"shards": {str(self.rank): state}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position in the data, by passing over the batches before it.

        Raises:
            ArgumentError: The data are others, or come in another order.
        """
        known = state["shards"]
        if str(self.rank) not in known and self.loader is not None:
            raise ArgumentError(
                f"`data` is a loader of its own on each of {len(known)} ranks, and this is "
                f"rank {self.rank}: use as many ranks as before, or pass a tensor."
            )
        state = known.get(str(self.rank), known["0"])
        if self.loader is not None:
            self.loader.check(state["constants"])
        began, taken, before = state["began"], int(state["taken"]), state["before"]
        self._restore(began)
        self._epoch, self._now = None, None
        self.position = Position(began, taken, before, self.walkers)
        if self.loader is None or not self.loader.has_own_state:
            self._pass_over(taken, before, state["last"])
        self._restore(state["now"])

    def _pass_over(self, taken: int, before: Mapping[str, Any], last: str) -> None:
        """Take so many batches again; others may have drawn numbers before the last."""
        for number in range(taken):
            if 0 < number == taken - 1:
                self._restore(before)
            next(self)
        if taken and digest(self.position.last) != last:
            raise ArgumentError(
                f"`data` gives other batches than those of the checkpoint: batch {taken} "
                f"of the epoch differs. {REPEATABLE} A buffer needs a generator of its own "
                "beside a callback that draws global numbers."
            )

    @cached_property
    def described(self) -> dict[str, Any]:
        """What kind of data these are, by which others can be told from them."""
        if isinstance(self.data, Tensor):
            return {
                "kind": "Tensor",
                "shape": list(self.data.shape),
                "digest": digest(self.data),
            }
        return {"kind": type(self.data).__name__}

    def located(self, rows: Tensor) -> str:
        """Return in words where in the data the first of some rows `(k, *event)` is."""
        first = rows[0]
        shown = ", ".join(f"{x:.4g}" for x in first.flatten()[:5].tolist())
        more = ", …" if first.numel() > 5 else ""
        if not isinstance(self.data, Tensor):
            return f", first at [{shown}{more}]"
        same = (self.data == first).reshape(len(self.data), -1).all(1)
        return f", first at row {int(same.int().argmax())} of `data`, [{shown}{more}]"

    def draw(self, num: int) -> Tensor:
        """Draw `num` data with replacement, `(num, *event)`."""
        pool = self.data if isinstance(self.data, Tensor) else self._pool(self.data, num)
        index = torch.randint(
            len(pool), (num,), generator=self.generator, device=self.generator.device
        )
        return pool[index.to(pool.device)]

    def _begin(self) -> Iterator[Tensor]:
        """Return the batches of an epoch."""
        if isinstance(self.data, Tensor):
            return self._shuffled(self.data)
        return self._loaded(self.data)

    def _state(self) -> dict[str, Any]:
        loader = None if self.loader is None else self.loader.state_dict()
        return {"generator": self.generator.get_state(), "loader": loader}

    def _restore(self, state: Mapping[str, Any]) -> None:
        set_state(self.generator, state["generator"])
        if self.loader is not None:
            self.loader.load_state_dict(state["loader"])

    def _check_repeatable(self) -> None:
        """Raise unless a loader gives the same batch when it is begun a second time."""
        if self.loader is None:
            return
        if isinstance(self.data, Iterator):
            raise ArgumentError(
                f"`data` is an iterator ({type(self.data).__name__}), which a resumed run "
                "cannot begin again: pass a list of batches or a DataLoader, or leave out "
                "`checkpoints`."
            )
        state, found = self._state(), []
        # Of persistent workers, the first look is to start them.
        for _ in range(3 if self.loader.has_persistent_workers else 2):
            found.append(digest(next(self._begin())))
            self.loader.restore_numbers(state["loader"])
        self._restore(state)
        self._num_loaded = 0
        if found[-2] != found[-1]:
            raise ArgumentError(
                "`data` gives another first batch when it is begun a second time from the "
                "same random numbers, so that a resumed run would have other batches. "
                f"{REPEATABLE} Or leave out `checkpoints`."
            )

    def _pool(self, loader: Iterable, num: int) -> Tensor:
        parts: list[Tensor] = []
        for batch in self._loaded(loader):
            parts.append(batch)
            if sum(map(len, parts)) >= num:
                break
        return torch.cat(parts)

    def _shuffled(self, data: Tensor) -> Iterator[Tensor]:
        size = self.batch_size
        if size is None or size >= len(data):
            yield data
            return
        order = torch.randperm(
            len(data), generator=self.generator, device=self.generator.device
        ).to(data.device)
        # A last, shorter batch would weigh its rows more: it waits for the next epoch.
        for start in range(0, len(order) - size + 1, size):
            yield data[order[start : start + size]]

    def _loaded(self, loader: Iterable) -> Iterator[Tensor]:
        empty = True
        for batch in loader:
            empty = False
            self._num_loaded += 1
            yield check_batch("`data`", batch, self.walkers, self.support)
        if not empty:
            return
        if self._num_loaded:
            raise DataError(
                f"`data` ended after {self._num_loaded} batches, and is an iterator "
                f"({type(loader).__name__}), which cannot be begun again. Pass a list of "
                "batches or a DataLoader, or ask for fewer `num_steps`."
            )
        raise DataError("`data` is empty: the loader yields no batch.")
