"""The processes that share the work, and what they tell each other.

Every number comes out with the same bits on any number of ranks: what is gathered keeps
its order, and sums go along one tree over shards, whoever holds them. Nothing that is sent
is ever unpickled.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from pyro_jarzynski.core.divergence import Divergence
from pyro_jarzynski.core.failures import Watch
from pyro_jarzynski.core.shard_tree import Node, add_leaf, combine, nodes_of
from pyro_jarzynski.errors import RankError


class Ranks:
    """The ranks of the default process group, or one process that is alone.

    Args:
        alone: Whether to be alone in spite of a process group.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        divergence: Lets ranks do different things in a block.
        bytes_sent: Bytes that this process has sent to others, by the collectives' own
            count: what a rank keeps to itself is left out.
    """

    def __init__(self, *, alone: bool = False) -> None:
        """Take part in the process group, if there is one; or be alone in spite of it."""
        grouped = not alone and dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.size = dist.get_world_size() if grouped else 1
        self.bytes_sent = 0
        self.watch = Watch(self.rank, self.size)
        self.divergence = Divergence(self.watch)

    def range_of(self, num: int, rank: int | None = None) -> range:
        """Return which of `num` shards live on a rank; `None` is this one."""
        rank = self.rank if rank is None else rank
        return range(rank * num // self.size, (rank + 1) * num // self.size)

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the rows of all ranks in order, of which this one has `sizes[rank]`."""
        if self.size == 1:
            return rows
        longest = max(sizes)
        sent = rows.new_zeros(longest, *rows.shape[1:])
        sent[: len(rows)] = rows
        found = rows.new_empty(self.size * longest, *rows.shape[1:])
        self.divergence.begin()
        with self.watch:
            _all_gather(found, sent)
        self.bytes_sent += (self.size - 1) * sent.nbytes
        parts = found.unflatten(0, (self.size, longest))
        return torch.cat([p[:n] for p, n in zip(parts, sizes, strict=True)])

    def total(self, leaves: Iterable[Tensor], num: int) -> Tensor:
        """Return the sum of `num` vectors, of which this rank has those of its shards.

        Each rank sums one part of all vectors, so that `2 (R - 1) / R` times the bytes of a
        vector leave it if the number of ranks `R` is a power of two.

        Args:
            leaves: Vectors `(P,)` of the shards that live here, in order, of which only
                as many are held at once as the tree has levels.
            num: Number of shards on all ranks.
        """
        here: dict[Node, Tensor] = {}
        for shard, leaf in zip(self.range_of(num), leaves, strict=True):
            add_leaf(shard, leaf, here)
        ranges = [self.range_of(num, rank) for rank in range(self.size)]
        nodes = [nodes_of(shards, num) for shards in ranges]
        mine = torch.stack([combine(node, here) for node in nodes[self.rank]])
        if self.size == 1:
            return mine[0]
        length = mine.shape[1]
        part = -(-length // self.size)
        padded = torch.nn.functional.pad(mine, (0, part * self.size - length))
        sent = padded.unflatten(1, (self.size, part)).transpose(0, 1).flatten(0, 1)
        rows = self.swap(sent, [len(mine)] * self.size, [len(of_rank) for of_rank in nodes])
        known = dict(zip((n for of_rank in nodes for n in of_rank), rows, strict=True))
        root = nodes_of(range(num), num)[0]
        return self.gather(combine(root, known), [part] * self.size)[:length]

    def totals(self, sums: Iterable[list[Tensor]], num: int) -> list[Tensor]:
        """Return the sums of `num` lists of tensors, of which this rank has its shards'."""
        kinds: list[tuple[torch.Size, torch.dtype]] = []

        def joined(tensors: list[Tensor]) -> Tensor:
            kinds[:] = [(tensor.shape, tensor.dtype) for tensor in tensors]
            return torch.cat([tensor.flatten() for tensor in tensors])

        whole = self.total(map(joined, sums), num)
        parts = whole.split([shape.numel() for shape, _ in kinds])
        return [
            part.view(shape).to(dtype)
            for part, (shape, dtype) in zip(parts, kinds, strict=True)
        ]

    def swap(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send `sent[r]` rows to each rank `r`, and return those that come from each."""
        if self.size == 1:
            return rows
        found = rows.new_empty(sum(received), *rows.shape[1:])
        self.divergence.begin()
        with self.watch:
            dist.all_to_all_single(found, rows.contiguous(), list(received), list(sent))
        others = sum(sent) - sent[self.rank]
        self.bytes_sent += others * (rows.nbytes // max(len(rows), 1))
        return found

    def largest(self, *numbers: int) -> list[int]:
        """Return the largest of each number on any rank."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def sum(self, number: int) -> int:
        """Return the sum of a number over all ranks."""
        return self._reduced([number], dist.ReduceOp.SUM)[0]

    def _reduced(self, numbers: Sequence[int], operation: Any) -> list[int]:
        """Return integers of all ranks, reduced to one of each."""
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.int64, device=_device())
        self.divergence.begin()
        with self.watch:
            dist.all_reduce(shared, operation)
        self.bytes_sent += 2 * (self.size - 1) * shared.nbytes // self.size
        return shared.tolist()

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Write the values of rank 0 into tensors, in place."""
        if self.size == 1:
            return
        self.divergence.begin()
        with self.watch, torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)
                self.bytes_sent += whole.nbytes if self.rank == 0 else 0

    def same(self, number: float) -> float:
        """Return the number of rank 0, by which all decide."""
        if self.size == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64, device=_device())
        self.spread([shared])
        return float(shared)

    def texts(self, text: str) -> list[str]:
        """Return a text of every rank."""
        if self.size == 1:
            return [text]
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=_device())
        lengths = torch.tensor([len(content)], device=_device())
        sizes = self.gather(lengths, [1] * self.size).tolist()
        joined = bytes(self.gather(content, sizes).tolist())
        ends = accumulate(sizes)
        return [joined[end - n : end].decode() for end, n in zip(ends, sizes, strict=True)]

    def digests(self, text: str) -> list[str]:
        """Return a hexadecimal digest of every rank, of up to 15 digits."""
        number = torch.tensor([int(text, 16)], device=_device())
        found = self.gather(number, [1] * self.size).tolist()
        return [f"{each:0{len(text)}x}" for each in found]

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Raise on every rank if a setting is not the same on all of them.

        Raises:
            RankError: Names the ranks, the setting and its values.
        """
        if self.size == 1:
            return
        plain = {name: repr(value) for name, value in settings.items()}
        known = [json.loads(text) for text in self.texts(json.dumps(plain))]
        for name in sorted(set().union(*known)):
            for rank, other in enumerate(known):
                if other.get(name) != known[0].get(name):
                    raise RankError(
                        f"`{name}` is {other.get(name)} on rank {rank} and "
                        f"{known[0].get(name)} on rank 0: start all ranks with the same "
                        "program, arguments, data and versions."
                    )

    def first(self, act: Callable[[], None]) -> None:
        """Let rank 0 do something; if it fails, all ranks raise an `OSError`."""
        self.attempt(act if self.rank == 0 else lambda: None)

    def attempt(self, act: Callable[[], Any]) -> Any:
        """Do what may fail on one rank alone; if it does, all ranks raise an `OSError`.

        What fails is the disk, or the memory: `OSError` and `MemoryError`.
        """
        if self.size == 1:
            return act()
        error: OSError | MemoryError | None = None
        try:
            outcome = act()
        except (OSError, MemoryError) as caught:
            error = caught
        reason = getattr(error, "strerror", None) or repr(error)
        told = self.texts("" if error is None else reason)
        failed = [f"rank {rank}: {text}" for rank, text in enumerate(told) if text]
        if failed:
            number = getattr(error, "errno", None) or 0
            raise OSError(number, "; ".join(failed)) from error
        return outcome


# Its name until torch 2.12.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def _device() -> torch.device:
    """Return where small numbers must be to be sent."""
    gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda" if gpu else "cpu")
