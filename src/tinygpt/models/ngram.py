"""A table of counted n-grams: the baseline that a model has to beat, learned in a second without a gradient."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import ConfigError, DataError, check_integer, checked_names
from tinygpt.files import memory_bytes
from tinygpt.ids import as_integers, first_outside
from tinygpt.models.base import LanguageModel

_FALLBACK = (0.5, 1.0, 1.5)  # discounts where too few n-grams are rare to estimate them
_BYTES_PER_ID = 90  # of memory, while an order of 7 is counted
_PARTS = {"contexts": torch.int64, "start": torch.int64, "next": torch.int32, "weight": None, "rest": None}


class NGramLanguageModel(LanguageModel):
    """Counts of the tokens after each context, interpolated with those after shorter contexts.

    An ``order`` of ``n`` predicts a token from the ``n - 1`` before it, by modified Kneser-Ney smoothing. Every
    distribution is whole: each token has a probability above zero, and they sum to 1. It has no parameters, and it
    reads inputs of any length. A file of it contains the n-grams of its corpus in readable form.

    :meth:`count` makes it. The weight of a token after a context is its count less a discount, divided by the count of
    the context. The discounts are the share that is left to the next shorter context, down to the even guess. Below the
    longest context, the count of a token is the number of different tokens that preceded context and token.

    Args:
        vocab_size: Number of distinct ids ``V``.
        levels: For each length of a context, from 0, the tensors ``contexts`` (``K``, the number of the next shorter
            context times ``V`` plus the id before it, sorted), ``start`` (``K+1``, of the entries of a context),
            ``next`` (``E``, the id of an entry), ``weight`` (``E``) and ``rest`` (``K``).

    Attributes:
        order: Length of the n-grams.

    Raises:
        ConfigError: If the tensors do not belong together.

    Example:
        >>> ids = CharTokenizer("abc").encode("abcabcabcab")
        >>> model = NGramLanguageModel.count(ids, vocab_size=3, order=2)
        >>> model(torch.tensor([[0, 1]])).logits.softmax(dim=-1).argmax(dim=-1)
        tensor([[1, 2]])

    Source:
        Chen and Goodman, *An Empirical Study of Smoothing Techniques for Language Modeling*, 1998, section 3.
        https://dash.harvard.edu/handle/1/25104739
    """

    @checked_names
    def __init__(self, vocab_size: int, *, levels: Sequence[dict[str, Tensor]]) -> None:
        super().__init__(vocab_size)
        self.order = len(levels)
        self.levels: Any = nn.ModuleList(map(_Level, levels))
        self._check_levels()

    @classmethod
    @checked_names
    def count(cls, ids: Any, *, vocab_size: int, order: int = 7) -> "NGramLanguageModel":
        """Count the n-grams of a corpus.

        Args:
            ids: The corpus, e.g. ``data.train``: a sequence, an array or a tensor of ids.
            vocab_size: Number of distinct ids.
            order: Length of the n-grams: 1 for single tokens, 2 for pairs. A larger corpus bears a longer one: for
                characters 5 suits a hundred thousand tokens, and 7 a million.

        Raises:
            ConfigError: If a number is not a positive integer.
            DataError: If there are fewer ids than ``order``, too many for the memory of this machine, or an id is not
                in ``range(vocab_size)``.
            InputTypeError: If ``ids`` are not integers.
        """
        size, order = check_integer("vocab_size", vocab_size, minimum=1), check_integer("order", order, minimum=1)
        ids = as_integers(ids)
        if len(ids) < order:
            raise DataError(f"the corpus must have at least order={order} ids, got {len(ids)}")
        if (needed := _BYTES_PER_ID * len(ids)) > memory_bytes():
            raise DataError(
                f"counting needs about {needed / 1e9:.0f} GB, got {memory_bytes() / 1e9:.0f} GB of memory; count a part"
            )
        if (outside := first_outside(ids, size)) is not None:
            raise DataError(f"ids must be in range(vocab_size={size}), got {ids[outside]} at {outside}")
        ids, count = ids.astype(np.int64), len(ids)
        # number the contexts of each length; an n-gram is counted where its longest context is whole
        number, contexts = np.zeros(count - order + 1, np.int64), [np.zeros(1, np.int64)]
        for length in range(1, order):
            keys = number * size + ids[order - 1 - length : count - length]
            known, number = np.unique(keys, return_inverse=True)
            contexts.append(known)
        # count what follows the longest contexts, then the kinds of shorter n-grams among the longer ones
        grams, counts = np.unique(number * size + ids[order - 1 :], return_counts=True)
        levels = []
        for known in reversed(contexts):
            number, next = grams // size, grams % size
            levels.append(_smoothed(known, number, next, counts))
            grams, counts = np.unique(known[number] // size * size + next, return_counts=True)
        return cls(size, levels=levels[::-1])

    def compute_logits(self, idx: Int[Tensor, "B T"], cache: Any = None) -> Float[Tensor, "B T V"]:
        """Return the log-probabilities after each id."""
        past = idx.new_empty(len(idx), 0) if cache is None else cache.ids
        ids = torch.cat([past, idx], dim=1)
        if cache is not None:
            cache.ids = ids[:, max(0, ids.shape[1] - self.order + 1) :]
        p: Tensor = self.levels[0].rest.new_full((idx.numel(), self.vocab_size), 1 / self.vocab_size)
        for level, rows, number in self._contexts(ids, idx.shape[1]):
            level.mix_in(p, rows, number)
        return p.log().view(*idx.shape, -1)

    def _contexts(self, ids: Int[Tensor, "B N"], count: int) -> Iterator[tuple["_Level", Tensor, Tensor]]:
        """Yield each level with the rows whose contexts it knows, from the shortest context to the longest.

        The rows are the last ``count`` positions of each sequence. Each context has its number in the level.
        """
        ids = F.pad(ids, (self.order - 1, 0), value=-1)
        rows = torch.arange(len(ids) * count, device=ids.device)
        number = torch.zeros_like(rows)
        for length, level in enumerate(self.levels):
            if length:
                end = ids.shape[1] - length + 1
                rows, number = level.find(rows, number, ids[:, end - count : end].flatten(), self.vocab_size)
            yield level, rows, number

    def new_cache(self, batch_size: int) -> Any:
        """Return a cache of the last ids."""
        return _Past(torch.empty(batch_size, 0, dtype=torch.int64, device=self.device))

    def knows(self, ids: Any) -> float:
        """Return the share of the n-grams of some ids that were counted; 1 for a piece of the corpus itself.

        Args:
            ids: At least ``order`` ids, as for :meth:`count`.
        """
        ids = torch.from_numpy(as_integers(ids).astype(np.int64)).to(self.device)
        *_, (level, rows, number) = self._contexts(ids[None, :-1], max(0, len(ids) - 1))
        known = level.number() * self.vocab_size + level.next
        hits = torch.isin(number * self.vocab_size + ids[1:][rows], known).sum()
        return float(hits) / max(1, len(ids) - max(self.order, 2) + 1)  # the first id has no context

    def num_parameters(self, *, trainable_only: bool = False) -> int:
        """Return the number of weights that were counted; none of them is trainable."""
        return 0 if trainable_only else sum(len(level.weight) + len(level.rest) for level in self.levels)

    def extra_repr(self) -> str:
        """Show the sizes in ``repr``."""
        entries = sum(len(level.next) for level in self.levels)
        return f"vocab_size={self.vocab_size}, order={self.order}, {entries:,} n-grams"

    def _check_levels(self) -> None:
        """Raise unless the levels belong together, so that no lookup can leave its tensor."""
        shorter = 1
        for length, level in enumerate(self.levels):
            contexts, start, next = level.contexts, level.start, level.next
            is_sorted = len(contexts) > 0 and bool((contexts[1:] > contexts[:-1]).all())
            known = len(contexts) == 1 and contexts[0] == 0 if not length else is_sorted
            fits = (
                known
                and int(contexts[0]) >= 0
                and int(contexts[-1]) < shorter * self.vocab_size
                and len(start) == len(contexts) + 1 == len(level.rest) + 1
                and int(start[0]) == 0
                and int(start[-1]) == len(next) == len(level.weight)
                and bool((start[1:] >= start[:-1]).all())
                and (not len(next) or (int(next.min()) >= 0 and int(next.max()) < self.vocab_size))
                and bool(((level.rest > 0) & (level.rest <= 1)).all())
                and bool((level.weight >= 0).all())
            )
            if not fits:
                raise ConfigError(
                    f"the levels of an n-gram model must belong together, got others at length {length}; use "
                    "NGramLanguageModel.count"
                )
            shorter = len(contexts)
        if not self.levels:
            raise ConfigError("an n-gram model must have at least one level, got none; use NGramLanguageModel.count")


class _Past:
    """The last ids of each row."""

    def __init__(self, ids: Int64[Tensor, "B N"]) -> None:
        self.ids = ids


class _Level(nn.Module):
    """The contexts of one length, and what follows each."""

    contexts: Int64[Tensor, " K"]
    start: Int64[Tensor, " K+1"]
    next: Int[Tensor, " E"]
    weight: Float[Tensor, " E"]
    rest: Float[Tensor, " K"]

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, dtype in _PARTS.items():
            tensor = tensors.get(name) if isinstance(tensors, dict) else None
            if not isinstance(tensor, Tensor) or tensor.ndim != 1 or tensor.dtype != (dtype or tensor.dtype):
                raise ConfigError(f"a level of an n-gram model must have {', '.join(_PARTS)}, each of one axis")
            self.register_buffer(name, tensor)

    def find(
        self, rows: Int64[Tensor, " N"], shorter: Int64[Tensor, " N"], older: Int[Tensor, " R"], size: int
    ) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " M"]]:
        """Return the rows whose contexts, made longer by an id, are known, and the numbers of these contexts."""
        ids = older[rows]
        keys = shorter * size + ids
        number = torch.searchsorted(self.contexts, keys).clamp(max=len(self.contexts) - 1)
        known = (ids >= 0) & (self.contexts[number] == keys)
        return rows[known], number[known]

    def mix_in(self, p: Float[Tensor, "R V"], rows: Int64[Tensor, " N"], number: Int64[Tensor, " N"]) -> None:
        """Mix what follows some contexts into the probabilities of their rows."""
        p[rows] *= self.rest[number, None]
        first = self.start[number]
        counts = self.start[number + 1] - first
        entries = torch.arange(int(counts.sum()), device=p.device)
        entries += (first - counts.cumsum(0) + counts).repeat_interleave(counts)
        p[rows.repeat_interleave(counts), self.next[entries]] += self.weight[entries]

    def number(self) -> Int64[Tensor, " E"]:
        """Return the number of the context of each entry."""
        return torch.arange(len(self.contexts), device=self.start.device).repeat_interleave(self.start.diff())


def _smoothed(contexts: np.ndarray, number: np.ndarray, next: np.ndarray, counts: np.ndarray) -> dict[str, Tensor]:
    """Return a level: the discounted shares of what follows each context, and the share of shorter contexts."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(number, counts, len(contexts))
    start = np.concatenate([[0], np.bincount(number, minlength=len(contexts)).cumsum()])
    dtype = torch.get_default_dtype()
    return {
        "contexts": torch.from_numpy(contexts),
        "start": torch.from_numpy(start),
        "next": torch.from_numpy(next.astype(np.int32)),
        "weight": torch.from_numpy((counts - discounts) / total[number]).to(dtype),
        "rest": torch.from_numpy(np.bincount(number, discounts, len(contexts)) / total).to(dtype),
    }


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Return the discount of each count, 0 to 3; the last one is for all larger counts too."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if 0 not in (n1, n2, n3, n4):
        share = n1 / (n1 + 2 * n2)
        found = 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3
        if min(found) > 0:
            return np.array([0.0, *found])
    return np.array([0.0, *_FALLBACK])
