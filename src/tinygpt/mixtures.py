"""Draw the windows of a batch from several corpora, each with its share."""

from collections.abc import Mapping

import numpy as np
import torch

from tinygpt.errors import DataError
from tinygpt.ids import Ids, Joined
from tinygpt.randomness import derive_seed, uniforms
from tinygpt.windows import Batch, Split

__all__ = ["Mixture"]


class Mixture(Split):
    """Join splits by name, and draw from each of them by its weight.

    In a pass, the splits come one after the other, each in rows of its own. A drawn window is a function of the seed,
    the step, its row in the batch and the name of its split. So a row that keeps its split keeps its window when
    another split is added.

    Args:
        sources: The splits by name.
        weights: The weight of each.

    Attributes:
        sources: The splits in the order of their names.
    """

    def __init__(self, sources: Mapping[str, Split], weights: Mapping[str, float]) -> None:
        self.sources = {name: sources[name] for name in sorted(sources)}
        shares = np.cumsum([weights[name] for name in self.sources])
        self._shares = shares[:-1] / shares[-1]
        splits = list(self.sources.values())
        offsets = np.cumsum([0, *(len(split.ids) for split in splits)])
        rows = [
            np.concatenate([part + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
            for parts in ([split.first for split in splits], [split.last for split in splits])
        ]
        masks: list[Ids] = [
            np.broadcast_to(np.True_, len(split.ids)) if split.mask is None else split.mask for split in splits
        ]
        is_masked = any(split.mask is not None for split in splits)
        super().__init__(
            Joined([split.ids for split in splits]), Joined(masks) if is_masked else None, (rows[0], rows[1])
        )

    def check(self, name: str, block_size: int | None, total: int) -> None:
        """Raise a DataError unless each split has a window."""
        for source, split in self.sources.items():
            try:
                split.check(name, block_size, len(split.ids))
            except DataError as error:
                raise DataError(f"source {source!r}: {error}") from error

    def draw(self, seed: int, name: str, step: int, batch_size: int, block_size: int) -> Batch:
        """Return random windows, each of a random split."""
        draws = uniforms(derive_seed(seed, "mix", name, step), np.arange(batch_size))
        chosen = np.searchsorted(self._shares, draws, side="right")
        x = torch.empty(batch_size, block_size, dtype=torch.int64)
        y = torch.empty_like(x)
        for number, (source, split) in enumerate(self.sources.items()):
            rows = np.flatnonzero(chosen == number)
            if len(rows):
                draws = uniforms(derive_seed(seed, "mix", source, name, step), rows)
                found = split.numbered((draws * split.count(block_size)).astype(np.int64), block_size)
                x[rows], y[rows] = found
        return Batch(x, y)
