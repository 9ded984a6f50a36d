"""Training data: checked once, and served in seeded, shuffled batches."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pyro_jarzynski.errors import ArgumentTypeError, DataError


def check_data(name: str, data: object, event_shape: Sequence[int]) -> Tensor:
    """Return data of shape `(n, *event)`, or raise and name the rows that are wrong."""
    if not isinstance(data, Tensor):
        raise ArgumentTypeError(
            f"`{name}` must be a tensor of shape (n, {_inside(event_shape)}), got "
            f"{type(data).__name__}; use `torch.as_tensor`."
        )
    if data.ndim == 0 or len(data) == 0:
        raise DataError(f"`{name}` is empty: got shape {tuple(data.shape)}.")
    if data.shape[1:] != torch.Size(event_shape):
        raise DataError(
            f"`{name}` must have shape (n, {_inside(event_shape)}), as the walkers do; "
            f"got {tuple(data.shape)}."
        )
    if not data.is_floating_point():
        raise ArgumentTypeError(
            f"`{name}` must hold floating-point numbers, got {data.dtype}; scale the data "
            "and call `.to(torch.get_default_dtype())`."
        )
    bad = ~torch.isfinite(data.reshape(len(data), -1)).all(1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise DataError(
            f"`{name}` has NaN or infinity in {len(rows)} of {len(data)} rows: {shown}."
        )
    return data


class Batches:
    """An endless stream of batches from a tensor or from a loader.

    Args:
        data: Tensor `(n, *event)`, or an iterable of batches (a DataLoader); of a batch
            that is a tuple the first entry is taken.
        batch_size: Rows per batch of a tensor; `None` takes all rows every time.
        event_shape: Shape of one datum.
        generator: Shuffles a tensor anew in every epoch.
    """

    def __init__(
        self,
        data: Tensor | Iterable,
        batch_size: int | None,
        event_shape: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        """Check a tensor at once; batches of a loader are checked as they come."""
        self.data, self.event_shape, self.generator = data, event_shape, generator
        if isinstance(data, Tensor):
            check_data("data", data, event_shape)
        elif not isinstance(data, Iterable):
            raise ArgumentTypeError(
                "`data` must be a tensor or an iterable of batches (a DataLoader), got "
                f"{type(data).__name__}."
            )
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches for ever."""
        while True:
            if isinstance(self.data, Tensor):
                yield from self._shuffled(self.data)
            else:
                yield from self._loaded(self.data)

    def draw(self, num: int) -> Tensor:
        """Draw `num` data with replacement, `(num, *event)`."""
        pool = self.data if isinstance(self.data, Tensor) else self._pool(self.data, num)
        index = torch.randint(
            len(pool), (num,), generator=self.generator, device=self.generator.device
        )
        return pool[index.to(pool.device)]

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
            rows = batch[0] if isinstance(batch, tuple | list) else batch
            empty = False
            yield check_data("data", rows, self.event_shape)
        if empty:
            raise DataError("`data` is empty: the loader yields no batch.")


def _inside(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape)) or "…"
