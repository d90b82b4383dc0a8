"""The base class of language models: ids in, logits out."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import InputTypeError, NonFiniteError, ShapeError, check_integer, check_number, checked_names, short
from tinygpt.ids import IGNORED
from tinygpt.layers.kernels import sizes_are_known
from tinygpt.layers.roles import matrices_in, tables_in
from tinygpt.models.modes import evaluating

_COLD = 0.01  # a temperature below which logits / temperature may overflow
WINDOW = 256  # tokens that ``Trainer`` and ``Sampler`` pass at once to a model without ``block_size``


class ModelOutput(NamedTuple):
    """The output of a model: logits, and a loss if targets were given.

    Attributes:
        logits: Unnormalised log-probabilities of the next token at each position.
        loss: Mean cross-entropy in nats per token, or None without targets.
    """

    logits: Float[Tensor, "B T V"]
    loss: Float[Tensor, ""] | None


class LanguageModel(nn.Module, ABC):
    """Base class of language models, which map ids to logits of the next token.

    A subclass defines :meth:`compute_logits` and inherits the rest. ``Trainer`` and ``Sampler`` use only this class.

    Args:
        vocab_size: Number of distinct ids ``V``.
        block_size: Longest input ``T``; None if the model reads inputs of any length.

    Attributes:
        trained_symbols: The text of each id in the tokenizer that the model was trained with, or None. ``Trainer`` and
            ``load`` set it; ``Trainer``, ``Sampler`` and ``save`` refuse a tokenizer of other symbols. Set it to None
            to give the ids another meaning.

    Raises:
        ConfigError: If a number is not a positive integer.

    Example:
        >>> class Unigram(LanguageModel):
        ...     def __init__(self, vocab_size):
        ...         super().__init__(vocab_size)
        ...         self.table = nn.Parameter(torch.zeros(vocab_size))
        ...
        ...     def compute_logits(self, idx, cache=None):
        ...         return self.table.expand(*idx.shape, -1)
        >>> Unigram(5)(torch.tensor([[0, 1, 2]])).logits.shape
        torch.Size([1, 3, 5])
    """

    trained_symbols: tuple[str | None, ...] | None = None

    def __init__(self, vocab_size: int, *, block_size: int | None = None) -> None:
        super().__init__()
        self.vocab_size = check_integer("vocab_size", vocab_size, minimum=1)
        self.block_size = None if block_size is None else check_integer("block_size", block_size, minimum=1)

    @abstractmethod
    def compute_logits(self, idx: Int[Tensor, "B T"], cache: Any = None) -> Float[Tensor, "B T V"]:
        """Return the logits of the token after each id.

        Args:
            idx: Ids that ``forward`` has checked.
            cache: A cache made by :meth:`new_cache`, which ``idx`` continues; None to start at the first position.
        """

    def new_cache(self, batch_size: int) -> Any:
        """Return an empty cache for ``block_size`` positions, or None if the model offers none, as here."""
        return None

    def forward(self, idx: Int[Tensor, "B T"], targets: Int[Tensor, "B T"] | None = None) -> ModelOutput:
        """Return the logits of the token after each id and, with targets, the loss.

        Args:
            idx: Ids, int32 or int64.
            targets: The id that follows each one; ``-100`` to leave a position out of the loss.

        Raises:
            InputTypeError: If ids are not int32 or int64, or are on another device than the model.
            ShapeError: If a shape is wrong, also that of the logits, ``T`` is over ``block_size``, or an id is outside
                the vocabulary.
        """
        # check the ids
        self._check_ids("idx", idx)
        if self.block_size is not None and sizes_are_known() and idx.shape[1] > self.block_size:
            raise ShapeError(
                f"idx has length {idx.shape[1]}, longer than block_size={self.block_size}; crop it first, "
                f"e.g. idx[:, -{self.block_size}:], or use Sampler, which does"
            )
        # without targets only the logits
        if targets is None:
            return ModelOutput(self._checked_logits(idx), None)
        # with targets also the loss
        self._check_ids("targets", targets, also=IGNORED)
        if targets.shape != idx.shape:
            raise ShapeError(
                f"targets must have the shape of idx, got {tuple(targets.shape)} beside {tuple(idx.shape)}"
            )
        logits = self._checked_logits(idx)
        return ModelOutput(logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten().long()))

    @checked_names
    def generate(
        self,
        idx: Int[Tensor, "B T"],
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "B N"]:
        """Append tokens to each row, one at a time. The definition; ``Sampler`` is the fast one.

        The model runs in evaluation mode and without a graph. Each draw is one call of :func:`torch.multinomial` with
        the probabilities of all ids.

        Args:
            idx: Ids to continue, at least one in each row; the model reads the last ``block_size``.
            max_new_tokens: Number of tokens to append.
            temperature: Divides the logits; 0 is greedy.
            top_k: Draw only from the ``top_k`` most probable ids.
            generator: Source of randomness; by default PyTorch's own.

        Returns:
            ``idx`` with the new ids appended, ``B T+max_new_tokens``.

        Raises:
            ConfigError: If a number is out of range.
            NonFiniteError: If the model returns NaN or infinity.
            ShapeError: If ``idx`` is not ``B T`` with at least one id, or an id is outside the vocabulary.
        """
        check_integer("max_new_tokens", max_new_tokens, minimum=0)
        check_number("temperature", temperature, "of at least 0", lambda number: number >= 0)
        kept = self.vocab_size if top_k is None else min(check_integer("top_k", top_k, minimum=1), self.vocab_size)
        kept = 1 if temperature == 0 else kept
        self._check_ids("idx", idx)
        idx = idx.long()
        with evaluating(self):
            for _ in range(max_new_tokens):
                # crop to the window and take the logits of the next token
                window = idx if self.block_size is None else idx[:, -self.block_size :]
                logits = self(window).logits[:, -1]  # B V
                check_finite(logits, f"after {idx.shape[1]} ids in row {{}}", range(len(idx)))
                # divide by the temperature
                if temperature < _COLD:
                    logits = logits - logits.amax(dim=-1, keepdim=True)
                logits = logits / max(temperature or 1.0, torch.finfo(logits.dtype).tiny)
                # keep the most probable ids; of equal ones the lowest
                if kept < self.vocab_size:
                    order = logits.sort(dim=-1, descending=True, stable=True).indices
                    logits = logits.scatter(1, order[:, kept:], float("-inf"))
                # draw and append
                drawn = torch.multinomial(logits.softmax(dim=-1), num_samples=1, generator=generator)  # B 1
                idx = torch.cat([idx, drawn], dim=1)
        return idx

    def head_parameters(self) -> list[nn.Parameter] | None:
        """Return the parameters of the LM head, or None if they are unknown.

        By default the parameters of the attribute ``head``. Override it if the head has another name; return ``[]`` if
        there is no head. Optimizers use it, e.g. :func:`tinygpt.optim.muon`.
        """
        head = getattr(self, "head", None)
        if isinstance(head, nn.Parameter):
            return [head]
        return list(head.parameters()) if isinstance(head, nn.Module) else None

    def table_parameters(self) -> list[nn.Parameter]:
        """Return the tables: parameters whose rows are looked up by id or position.

        By default the parameters of all embedding layers. Override it if a table is a bare ``nn.Parameter``, e.g.
        ``return [*super().table_parameters(), self.positions]``.
        """
        return tables_in(self)

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Return the matrices, or stacks of matrices, that multiply vectors.

        By default the parameters of all linear, attention and recurrent layers of PyTorch. Override it if a matrix is a
        bare ``nn.Parameter``, e.g. the stack ``(E, C, H)`` of a mixture of ``E`` experts. Biases do not count, nor does
        a parameter that :meth:`head_parameters` or :meth:`table_parameters` returns.
        """
        return matrices_in(self)

    def num_parameters(self, *, trainable_only: bool = False) -> int:
        """Return the number of parameters; shared ones count once.

        Args:
            trainable_only: Whether to count only parameters that require a gradient.
        """
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)

    @property
    def device(self) -> torch.device:
        """Device of the parameters; without any, that of the buffers, or the default device."""
        return next((tensor.device for tensor in self._tensors()), torch.get_default_device())

    def extra_repr(self) -> str:
        """Show the sizes in ``repr``."""
        limit = "" if self.block_size is None else f"block_size={self.block_size}, "
        return f"vocab_size={self.vocab_size}, {limit}{self.num_parameters():,} parameters"

    def _tensors(self) -> Iterator[Tensor]:
        return itertools.chain(self.parameters(), self.buffers())

    def _checked_logits(self, idx: Tensor) -> Tensor:
        logits = self.compute_logits(idx)
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = str(logits.dtype) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputTypeError(f"compute_logits must return a tensor of floating point, got {kind}")
        if sizes_are_known() and logits.shape != (*idx.shape, self.vocab_size):
            wanted = (*idx.shape, self.vocab_size)
            raise ShapeError(f"compute_logits must return the shape (B, T, V) = {wanted}, got {tuple(logits.shape)}")
        return logits

    def _check_ids(self, name: str, ids: Tensor, also: int | None = None) -> None:
        """Raise unless ``ids`` are ``B T`` ids of the vocabulary, or ``also``, on the model's device."""
        if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
            kind = str(ids.dtype) if isinstance(ids, Tensor) else type(ids).__name__
            way = f"{name}.long()" if isinstance(ids, Tensor) else f"torch.tensor({name})"
            if isinstance(ids, str):
                way = "Sampler, which encodes a text"
            raise InputTypeError(f"{name} must be an int32 or int64 tensor, got {kind}; use {way}")
        if ids.ndim != 2 or (sizes_are_known() and 0 in ids.shape):
            raise ShapeError(f"{name} must have the shape (B, T) with B and T at least 1, got {tuple(ids.shape)}")
        device = next((tensor.device for tensor in self._tensors()), ids.device)
        if ids.device != device:
            raise InputTypeError(
                f"{name} must be on the model's device, got {name} on {ids.device} and the model on {device}; "
                f"use {name}.to(model.device)"
            )
        if is_readable(ids) and not _ARE_CHECKED.get():
            check_values(name, ids, self.vocab_size, also)


_ARE_CHECKED = ContextVar("are_checked", default=False)


def is_readable(tensor: Tensor) -> bool:
    """Return whether the values of a tensor can be read.

    They cannot while a graph is compiled, exported or traced, within :func:`torch.func.vmap`, or if the tensor has no
    memory: a fake tensor, or one on the meta device.
    """
    if torch.compiler.is_compiling() or not sizes_are_known() or type(tensor) is not Tensor:
        return False
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:
        return False


@contextmanager
def skip_value_checks() -> Iterator[None]:
    """Skip the check of ids inside the block; the caller has checked them on the CPU."""
    token = _ARE_CHECKED.set(True)
    try:
        yield
    finally:
        _ARE_CHECKED.reset(token)


def check_values(name: str, ids: Int[Tensor, "B T"], vocab_size: int, also: int | None = None) -> None:
    """Raise :class:`ShapeError` unless all ids are in the vocabulary, or equal to ``also``."""
    counted = ids if also is None else ids[ids != also]
    if not counted.numel():
        raise ShapeError(f"{name} must hold at least one id to predict, got {also} everywhere")
    low, high = (int(bound) for bound in counted.aminmax())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        position = (ids == wrong).nonzero()[0].tolist()
        hint = f"; to ignore a target use {also}, e.g. targets.masked_fill(targets == -1, {also})"
        raise ShapeError(
            f"{name} must hold ids from 0 to vocab_size - 1 = {vocab_size - 1}, got ids from {low} to {high}, "
            f"{wrong} at position {short(tuple(position))}{hint if also and low == -1 else ''}"
        )


def check_finite(logits: Float[Tensor, "B V"], where: str, numbers: Sequence[int]) -> None:
    """Raise :class:`NonFiniteError` unless the maximum of each row is finite.

    In a message, ``where`` describes a row by its number.
    """
    largest = logits.amax(dim=-1).tolist()
    if not all(map(math.isfinite, largest)):
        row = next(row for row, value in enumerate(largest) if not math.isfinite(value))
        raise NonFiniteError(
            f"logits must have a finite maximum, got {largest[row]} {where.format(numbers[row])}; the "
            "weights of the model are probably not finite"
        )


def count_targets(targets: Int[Tensor, "B T"]) -> int:
    """Return the number of targets that are not ``IGNORED``."""
    return int((targets != IGNORED).sum())
