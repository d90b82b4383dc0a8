"""Property checks for parts of your own.

They check causality, independent sequences, caches and gradients. Each check takes a part and an input, and raises
:class:`CheckError` with the first violation. It works on a copy in float64 with random weights, in evaluation mode, so
the part is not changed and no weight that starts at zero hides a fault. Small inputs find as much as large ones, and
sooner::

    from tinygpt.testing import check_causal

    def test_my_attention_does_not_look_ahead():
        check_causal(MyAttention(n_embd=8), torch.randn(2, 5, 8))

With Hypothesis (``pip install hypothesis``), :func:`sizes` draws the sizes as well::

    @given(s=sizes())
    def test_my_attention_does_not_look_ahead(s):
        check_causal(MyAttention(s.n_embd), s.stream())

A part is a module that maps ``B T C`` to ``B T C``, with a residual stream as its input, or a language model, with ids.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinygpt.errors import InputTypeError, TinyGPTError, cut, short
from tinygpt.layers.cache import new_cache
from tinygpt.models import GPTLanguageModel, LanguageModel

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_SEEN = 1e-12  # a smaller derivative counts as zero
_TOLERANCE = 1e-10  # largest difference between two ways to the same numbers in float64


class CheckError(TinyGPTError, AssertionError):
    """A part fails a check; the message says where."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a test case.

    ``n_embd`` is derived, so ``n_head`` always divides it.

    Attributes:
        batch_size: Number of sequences ``B``.
        length: Length ``T`` of a sequence.
        n_head: Number of heads ``H``.
        head_size: Width ``D`` of a head, even, so that rotary positions accept it.
        vocab_size: Number of distinct ids ``V``.
        seed: Decides the numbers of :meth:`stream` and :meth:`ids`.
    """

    batch_size: int
    length: int
    n_head: int
    head_size: int
    vocab_size: int
    seed: int

    @property
    def n_embd(self) -> int:
        """Width ``C`` of the residual stream."""
        return self.n_head * self.head_size

    def generator(self) -> torch.Generator:
        """Return a generator seeded with the seed of this case."""
        return torch.Generator().manual_seed(self.seed)

    def stream(self) -> Tensor:
        """Return a residual stream ``B T C`` of unit-variance numbers in float64."""
        shape = (self.batch_size, self.length, self.n_embd)
        return torch.randn(shape, generator=self.generator(), dtype=torch.float64)

    def ids(self, length: int | None = None) -> Tensor:
        """Return random ids ``B T``, by default of this length."""
        shape = (self.batch_size, self.length if length is None else length)
        return torch.randint(self.vocab_size, shape, generator=self.generator())


def sizes(*, min_length: int = 1, max_length: int = 7) -> "SearchStrategy[Sizes]":
    """Return a Hypothesis strategy for small sizes.

    Args:
        min_length: Smallest ``T``.
        max_length: Largest ``T``.
    """
    from hypothesis import strategies as st

    return st.builds(
        Sizes,
        batch_size=st.integers(1, 3),
        length=st.integers(min_length, max_length),
        n_head=st.sampled_from([1, 2, 3, 4]),
        head_size=st.sampled_from([2, 4]),
        vocab_size=st.sampled_from([5, 11, 13]),
        seed=st.integers(0, 2**31 - 1),
    )


def randomise(part: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter of a part random values, and return the part.

    Matrices get a standard deviation of one over the root of their width, other parameters one of a half.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            std = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return part


def check_shape(part: nn.Module, x: Tensor) -> None:
    """Check that the output is finite and has the right shape.

    It is checked at every length of the input. A part must return ``B T C`` for ``B T C``, a model logits ``B T V`` for
    ids ``B T``.

    Raises:
        CheckError: If a shape is wrong, or a number is not finite.

    Example:
        >>> check_shape(nn.Linear(8, 9), torch.randn(2, 5, 8))
        Traceback (most recent call last):
            ...
        tinygpt.testing.CheckError: an input of (2, 1, 8) must give an output of (2, 1, 8), got (2, 1, 9)
    """
    with _prepared(part, x) as (part, x):
        width = part.vocab_size if isinstance(part, LanguageModel) else x.shape[-1]
        for length in range(1, x.shape[1] + 1):
            output = _call(part, x[:, :length])
            wanted = (x.shape[0], length, width)
            if tuple(output.shape) != wanted:
                given, got = tuple(x[:, :length].shape), tuple(output.shape)
                raise CheckError(f"an input of {given} must give an output of {wanted}, got {got}")
            if not output.isfinite().all():
                raise CheckError(f"the output must be finite, got {_first(~output.isfinite())} at length {length}")


def check_causal(part: nn.Module, x: Tensor, *, reach: int | None = None) -> None:
    """Check that a position depends on earlier ones, never on later ones.

    Each position must depend on itself and on all earlier positions. For a part, the derivative of each output with
    respect to each later input must be exactly zero, and with respect to each earlier one it must not be zero. For a
    model, each id is changed in turn: the logits before it must not change, and the logits from it on must.

    Args:
        part: The part or model to check.
        x: A residual stream or ids, at least two positions long.
        reach: How many earlier positions each one must depend on; by default all. Use 0 for a part that works on each
            position separately, and the width for attention in a window.

    Raises:
        CheckError: If a position depends on too much or too little.

    Example:
        >>> check_causal(MultiHeadAttention(8, n_head=2), torch.randn(2, 5, 8))
        >>> check_causal(MultiHeadAttention(8, n_head=2, causal=False), torch.randn(2, 5, 8))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tinygpt.testing.CheckError: the output at position 0 must not depend on the later position 1, got ...
    """
    with _prepared(part, x) as (part, x):
        is_model = isinstance(part, LanguageModel)
        effects = _effect_of_ids(part, x) if is_model else _effect_of_positions(part, x)  # T T: of a column on a row
        for position, row in enumerate(effects.tolist()):
            for seen, change in enumerate(row):
                needed = seen <= position and (reach is None or position - seen <= reach)
                if seen > position and change > (_TOLERANCE if is_model else 0):
                    raise CheckError(
                        f"the output at position {position} must not depend on the later position {seen}, got an "
                        f"effect of {change:.2g}"
                    )
                if needed and not change > _SEEN:
                    raise CheckError(f"the output at position {position} must depend on position {seen}, got no effect")


def check_batch_independent(part: nn.Module, x: Tensor) -> None:
    """Check that the sequences of a batch do not affect each other.

    Each must give what it gives alone, and NaN in one must not reach another.

    Raises:
        CheckError: If a sequence affects another one.
    """
    with _prepared(part, x) as (part, x):
        together = _call(part, x)
        for row in range(len(x)):
            _compare(_call(part, x[row : row + 1])[0], together[row], f"row {row} alone must be row {row} of the batch")
        if x.is_floating_point() and len(x) > 1:
            poisoned = x.clone()
            poisoned[0] = math.nan
            if not _call(part, poisoned)[1:].isfinite().all():
                raise CheckError("NaN in one sequence must not reach another, got NaN in another sequence of the batch")


def check_prefix_consistent(part: nn.Module, x: Tensor) -> None:
    """Check that the output on a prefix is the prefix of the output.

    Raises:
        CheckError: If an output differs.
    """
    with _prepared(part, x) as (part, x):
        whole = _call(part, x)
        for length in range(1, x.shape[1] + 1):
            text = f"the output on the first {length} positions must be the beginning of the whole output"
            _compare(_call(part, x[:, :length]), whole[:, :length], text)


def check_cache_equal(part: nn.Module, x: Tensor) -> None:
    """Check that the output through a cache is the output without one.

    The input is read in pieces of every size.

    Raises:
        CheckError: If an output differs, or the part keeps no cache.
    """
    with _prepared(part, x) as (part, x):
        length = x.shape[1]
        whole = _call(part, x)
        for size in range(1, length + 1):
            cache = part.new_cache(len(x)) if isinstance(part, LanguageModel) else new_cache(part, len(x), length)
            if cache is None:
                raise CheckError(f"{type(part).__name__} keeps no cache: new_cache is missing or returned None")
            for start in range(0, length, size):
                output = _call(part, x[:, start : start + size], cache)
                text = f"with a cache of {start} positions the next {output.shape[1]} must be as without one"
                _compare(output, whole[:, start : start + size], text)


def check_gradients(part: nn.Module, x: Tensor) -> None:
    """Check all derivatives against finite differences.

    Every trainable parameter must have one.

    Raises:
        CheckError: If a derivative is wrong, or a parameter has no effect.

    Source:
        :func:`torch.autograd.gradcheck`.
    """
    with _prepared(part, x) as (part, x), torch.enable_grad():
        named = {name: parameter for name, parameter in part.named_parameters() if parameter.requires_grad}
        inputs = [x.requires_grad_()] if x.is_floating_point() else []
        total = _call(part, x).square().sum()
        gradients = torch.autograd.grad(total, [*named.values()], allow_unused=True) if named else ()
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is None or not gradient.abs().max() > 0:
                raise CheckError(f"every parameter must have an effect, got no derivative for {short(name)}")
        try:
            values = (*inputs, *named.values())  # changed in place, one number at a time
            torch.autograd.gradcheck(lambda *_: _call(part, x), values, eps=1e-6, atol=1e-6, rtol=1e-4)
        except RuntimeError as error:
            raise CheckError(f"derivatives must equal finite differences: {cut(str(error))}") from error


def check_trains(part: nn.Module, x: Tensor, *, steps: int = 300, loss: float = 0.05) -> None:
    """Check that a model overfits one small batch.

    For a part, a model of this one block must do so. The weights start as they are, not at random.

    Args:
        part: The part or model to check.
        x: A residual stream or ids.
        steps: Number of steps of AdamW, at a learning rate of 0.01.
        loss: Loss to reach, in nats.

    Raises:
        CheckError: If the loss stays above.
    """
    with _prepared(part, x, is_randomised=False) as (part, x), torch.enable_grad():
        if isinstance(part, LanguageModel):
            model = part
        else:
            torch.manual_seed(0)
            model = GPTLanguageModel(11, block_size=x.shape[1], n_embd=x.shape[2], blocks=[part])
        generator = torch.Generator().manual_seed(0)
        idx = torch.randint(model.vocab_size, (x.shape[0], x.shape[1] + 1), generator=generator)
        # Rows that begin alike would have unpredictable ids: let them differ from the first position.
        idx[:, 0] = torch.arange(len(idx)) % model.vocab_size
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        reached = math.inf
        for _ in range(steps):
            reached_now = model(idx[:, :-1], idx[:, 1:]).loss
            optimizer.zero_grad()
            reached_now.backward()
            optimizer.step()
            reached = float(reached_now.detach())
            if reached < loss:
                return
        raise CheckError(f"one batch must be overfitted to below {loss} nats, got {reached:.3f} after {steps} steps")


@contextmanager
def _prepared(part: nn.Module, x: Tensor, *, is_randomised: bool = True) -> Iterator[tuple[Any, Tensor]]:
    """Yield copies of part and input in float64; restore all global state."""
    if not isinstance(part, nn.Module):
        raise InputTypeError(f"part must be a module, got {short(part)}")
    wanted = 2 if isinstance(part, LanguageModel) else 3
    if not isinstance(x, Tensor) or x.ndim != wanted or x.is_floating_point() != (wanted == 3):
        kind = "ids of shape (B, T) for a model" if wanted == 2 else "a residual stream of shape (B, T, C) for a part"
        raise InputTypeError(f"x must be {kind}, got {short(x)}")
    dtype = torch.get_default_dtype()
    mine = copy.deepcopy(part).cpu().double().eval()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if is_randomised:
                randomise(mine)
            yield mine, x.detach().clone().cpu().to(torch.float64 if x.is_floating_point() else x.dtype)
    finally:
        torch.set_default_dtype(dtype)


def _call(part: nn.Module, x: Tensor, cache: Any = None) -> Tensor:
    if isinstance(part, LanguageModel):
        return part.compute_logits(x, cache=cache)
    output: Tensor = part(x) if cache is None else part(x, cache=cache)
    return output


def _effect_of_positions(part: nn.Module, x: Tensor) -> Tensor:
    """Return the largest derivative of output to input positions, ``T T``."""
    with torch.enable_grad():
        x = x.requires_grad_()
        output = _call(part, x)
        mix = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(0), dtype=output.dtype)
        rows = []
        for position in range(x.shape[1]):
            (gradient,) = torch.autograd.grad((output[:, position] @ mix).sum(), x, retain_graph=True)
            rows.append(gradient.abs().amax(dim=(0, 2)))
    return torch.stack(rows)


def _effect_of_ids(model: Any, idx: Tensor) -> Tensor:
    """Return how much logits change with the id of each position, ``T T``."""
    before = model.compute_logits(idx)
    columns = []
    for position in range(idx.shape[1]):
        changed = idx.clone()
        changed[:, position] = (changed[:, position] + 1) % model.vocab_size
        columns.append((model.compute_logits(changed) - before).abs().amax(dim=(0, 2)))
    return torch.stack(columns, dim=1)


def _compare(found: Tensor, wanted: Tensor, promise: str) -> None:
    """Raise unless two outputs are the same within the tolerance."""
    if found.shape != wanted.shape:
        raise CheckError(f"{promise}, got the shapes {tuple(found.shape)} and {tuple(wanted.shape)}")
    difference = (found - wanted).abs()
    if not bool((difference <= _TOLERANCE).all()):
        where = _first(~(difference <= _TOLERANCE))
        raise CheckError(f"{promise}, got a difference of {float(difference.max()):.2g} at {where}")


def _first(condition: Tensor) -> str:
    """Return the index of the first element for which a condition holds."""
    return str(tuple(condition.nonzero()[0].tolist()))
