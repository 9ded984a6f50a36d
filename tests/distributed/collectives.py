"""What ranks tell each other, on the device that each has; run by `launch.run`."""

import torch

import pyro_jarzynski as pj

NUM, LENGTH = 6, 11


def rows_of(shard: int) -> torch.Tensor:
    """Return what a shard has, of its own length."""
    return torch.arange(3 + shard, dtype=torch.float64)[:, None] + 100 * shard


def main() -> None:
    """Gather, sum and swap, and compare with what is known."""
    with pj.distributed() as ranks:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        sizes = [3 + rank for rank in range(ranks.size)]
        found = ranks.gather(rows_of(ranks.rank).to(device), sizes)
        assert torch.equal(found.cpu(), torch.cat([rows_of(r) for r in range(ranks.size)]))
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(NUM, LENGTH, generator=generator)
        leaves = [vectors[k].to(device) for k in ranks.range_of(NUM)]
        pairs = vectors[0::2] + vectors[1::2]
        tree = (pairs[0] + pairs[1]) + pairs[2]
        assert torch.equal(ranks.total(leaves, NUM).cpu(), tree)
        # Rank r sends r + 1 rows to each.
        sent = torch.full(((ranks.rank + 1) * ranks.size, 2), ranks.rank, device=device)
        received = [rank + 1 for rank in range(ranks.size)]
        swapped = ranks.swap(sent, [ranks.rank + 1] * ranks.size, received)
        expected = torch.arange(ranks.size).repeat_interleave(torch.tensor(received))
        assert torch.equal(swapped[:, 0].cpu(), expected)
        assert ranks.largest(ranks.rank, -ranks.rank) == [ranks.size - 1, 0]
        assert ranks.texts(f"é{ranks.rank}") == [f"é{r}" for r in range(ranks.size)]
        print("all right")


if __name__ == "__main__":
    main()
