"""Property checks for parts of your own: does it look ahead, does it mix sequences, does its cache tell the truth.

Each check takes a part and an input of your sizes, and raises :class:`CheckError` with what it saw. It works on a copy
in float64 with random weights, in evaluation mode: yours is not changed, and no weight that starts at zero hides a
fault. Small sizes find as much as large ones, and sooner::

    from tinygpt.testing import check_causal

    def test_my_attention_does_not_look_ahead():
        check_causal(MyAttention(n_embd=8), torch.randn(2, 5, 8))

With Hypothesis (``pip install hypothesis``), :func:`sizes` draws the sizes as well::

    @given(s=sizes())
    def test_my_attention_does_not_look_ahead(s):
        check_causal(MyAttention(s.n_embd), s.stream())

A part is a module that maps ``B T C`` to ``B T C``, with a stream as its input, or a language model, with ids.
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

_SEEN = 1e-12  # a derivative below this is none
_TOLERANCE = 1e-10  # by which two ways to the same numbers may differ in float64


class CheckError(TinyGPTError, AssertionError):
    """A part does not keep a promise; the message says where."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a case, named as everywhere; ``n_embd`` is derived, so that ``n_head`` always divides it.

    Attributes:
        batch_size: Number of sequences ``B``.
        length: Their length ``T``.
        n_head: Number of heads ``H``.
        head_size: Width ``D`` of a head, even, so that rotary positions take it.
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
        """Width ``C`` of the stream."""
        return self.n_head * self.head_size

    def generator(self) -> torch.Generator:
        """Return a generator of this case's own."""
        return torch.Generator().manual_seed(self.seed)

    def stream(self) -> Tensor:
        """Return a stream ``B T C`` of unit-variance numbers in float64."""
        shape = (self.batch_size, self.length, self.n_embd)
        return torch.randn(shape, generator=self.generator(), dtype=torch.float64)

    def ids(self, length: int | None = None) -> Tensor:
        """Return ids ``B T``, of this length or another."""
        shape = (self.batch_size, self.length if length is None else length)
        return torch.randint(self.vocab_size, shape, generator=self.generator())


def sizes(*, min_length: int = 1, max_length: int = 7) -> "SearchStrategy[Sizes]":
    """Return a Hypothesis strategy for sizes that are small, and of which no two axes are equal by design.

    Args:
        min_length: Shortest ``T``.
        max_length: Longest ``T``.
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
    """Give every parameter of a part a random value that matters, in place, and return the part.

    Matrices get a standard deviation of one over the root of their width, all else a half.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            std = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return part


def check_shape(part: nn.Module, x: Tensor) -> None:
    """Check that a part gives a finite ``B T C`` for a ``B T C``, or a model ``B T V`` for ``B T``, at every length.

    Raises:
        CheckError: If a shape is another, or a number is not finite.

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
    """Check that each place sees all that came before it, itself too, and nothing that comes later.

    For a part the derivative of each output to each input to its right must be zero, exactly, and to its left it must
    not. For a model each id is changed in turn: the logits before it must stay, those from it on must not.

    Args:
        part: What to check.
        x: A stream or ids, at least two places long.
        reach: How far back a place must see: by default to the beginning. 0 for a part that works on each place by
            itself, a width for attention in a window.

    Raises:
        CheckError: If a place sees too much or too little.

    Example:
        >>> check_causal(MultiHeadAttention(8, n_head=2), torch.randn(2, 5, 8))
        >>> check_causal(MultiHeadAttention(8, n_head=2, causal=False), torch.randn(2, 5, 8))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tinygpt.testing.CheckError: the output at place 0 must not depend on place 1, after it, got an effect of ...
    """
    with _prepared(part, x) as (part, x):
        is_model = isinstance(part, LanguageModel)
        effects = _effect_of_ids(part, x) if is_model else _effect_of_places(part, x)  # T T: of a column on a row
        for place, row in enumerate(effects.tolist()):
            for seen, change in enumerate(row):
                needed = seen <= place and (reach is None or place - seen <= reach)
                if seen > place and change > (_TOLERANCE if is_model else 0):
                    raise CheckError(
                        f"the output at place {place} must not depend on place {seen}, after it, got an effect of "
                        f"{change:.2g}"
                    )
                if needed and not change > _SEEN:
                    raise CheckError(f"the output at place {place} must depend on place {seen}, got no effect at all")


def check_batch_independent(part: nn.Module, x: Tensor) -> None:
    """Check that sequences of a batch do not touch: each comes out as it does alone, and NaN stays where it is.

    Raises:
        CheckError: If they do.
    """
    with _prepared(part, x) as (part, x):
        together = _call(part, x)
        for row in range(len(x)):
            _compare(_call(part, x[row : row + 1])[0], together[row], f"row {row} alone must be row {row} of the batch")
        if x.is_floating_point() and len(x) > 1:
            poisoned = x.clone()
            poisoned[0] = math.nan
            if not _call(part, poisoned)[1:].isfinite().all():
                raise CheckError("NaN in one sequence must stay there, got it in another one of the batch")


def check_prefix_consistent(part: nn.Module, x: Tensor) -> None:
    """Check that the output on a prefix is the prefix of the output, at every length.

    Raises:
        CheckError: If it is not.
    """
    with _prepared(part, x) as (part, x):
        whole = _call(part, x)
        for length in range(1, x.shape[1] + 1):
            text = f"the output on the first {length} places must be the beginning of the whole output"
            _compare(_call(part, x[:, :length]), whole[:, :length], text)


def check_cache_equal(part: nn.Module, x: Tensor) -> None:
    """Check that with a cache, in pieces of every size, a part gives what it gives without.

    Raises:
        CheckError: If it does not, or keeps no cache.
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
                text = f"with a cache of {start} places the next {output.shape[1]} must be as without one"
                _compare(output, whole[:, start : start + size], text)


def check_gradients(part: nn.Module, x: Tensor) -> None:
    """Check that derivatives are those of finite differences, and that every trainable parameter has one.

    Raises:
        CheckError: If one is wrong, or a parameter has no effect.

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
                raise CheckError(f"every parameter must have an effect, got none of {short(name)}")
        try:
            values = (*inputs, *named.values())  # changed in place, one number at a time
            torch.autograd.gradcheck(lambda *_: _call(part, x), values, eps=1e-6, atol=1e-6, rtol=1e-4)
        except RuntimeError as error:
            raise CheckError(f"derivatives must be those of finite differences: {cut(str(error))}") from error


def check_trains(part: nn.Module, x: Tensor, *, steps: int = 300, loss: float = 0.05) -> None:
    """Check that a model learns one small batch by heart; for a part, that a model of this one block does.

    The weights start as they are, not at random.

    Args:
        part: What to check.
        x: A stream or ids.
        steps: How many steps of AdamW it has, at a learning rate of 0.01.
        loss: How low its loss must come, in nats.

    Raises:
        CheckError: If it does not come that low.
    """
    with _prepared(part, x, is_randomised=False) as (part, x), torch.enable_grad():
        if isinstance(part, LanguageModel):
            model = part
        else:
            torch.manual_seed(0)
            model = GPTLanguageModel(11, block_size=x.shape[1], n_embd=x.shape[2], blocks=[part])
        generator = torch.Generator().manual_seed(0)
        idx = torch.randint(model.vocab_size, (x.shape[0], x.shape[1] + 1), generator=generator)
        # Where one id follows the same ids in two places it cannot be known: let the rows differ from the start.
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
        raise CheckError(f"one batch must be learnt by heart, below {loss} nats; got {reached:.3f} after {steps} steps")


@contextmanager
def _prepared(part: nn.Module, x: Tensor, *, is_randomised: bool = True) -> Iterator[tuple[Any, Tensor]]:
    """Hand out a copy of the part in float64 and the input beside it, without a graph, and restore what is global."""
    if not isinstance(part, nn.Module):
        raise InputTypeError(f"part must be a module, got {short(part)}")
    wanted = 2 if isinstance(part, LanguageModel) else 3
    if not isinstance(x, Tensor) or x.ndim != wanted or x.is_floating_point() != (wanted == 3):
        kind = "ids of shape (B, T) for a model" if wanted == 2 else "a stream of shape (B, T, C) for a part"
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


def _effect_of_places(part: nn.Module, x: Tensor) -> Tensor:
    """Return the largest derivative of each place's output to each place's input, ``T T``."""
    with torch.enable_grad():
        x = x.requires_grad_()
        output = _call(part, x)
        mix = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(0), dtype=output.dtype)
        rows = []
        for place in range(x.shape[1]):
            (gradient,) = torch.autograd.grad((output[:, place] @ mix).sum(), x, retain_graph=True)
            rows.append(gradient.abs().amax(dim=(0, 2)))
    return torch.stack(rows)


def _effect_of_ids(model: Any, idx: Tensor) -> Tensor:
    """Return how much each place's logits change when each place's id does, ``T T``."""
    before = model.compute_logits(idx)
    columns = []
    for place in range(idx.shape[1]):
        changed = idx.clone()
        changed[:, place] = (changed[:, place] + 1) % model.vocab_size
        columns.append((model.compute_logits(changed) - before).abs().amax(dim=(0, 2)))
    return torch.stack(columns, dim=1)


def _compare(found: Tensor, wanted: Tensor, promise: str) -> None:
    """Raise unless two outputs are the same within the tolerance."""
    if found.shape != wanted.shape:
        raise CheckError(f"{promise}, got the shape {tuple(found.shape)} beside {tuple(wanted.shape)}")
    difference = (found - wanted).abs()
    if not bool((difference <= _TOLERANCE).all()):
        where = _first(~(difference <= _TOLERANCE))
        raise CheckError(f"{promise}, got a difference of {float(difference.max()):.2g} at {where}")


def _first(places: Tensor) -> str:
    """Return the first place at which something holds."""
    return str(tuple(places.nonzero()[0].tolist()))
