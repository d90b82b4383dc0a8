"""Read a text with a model: surprise, guesses, attention, and the logit lens."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from threading import get_ident
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from tinygpt.errors import DataError, InputTypeError, check_integer, checked_names, short
from tinygpt.models import GPTLanguageModel, LanguageModel
from tinygpt.models.base import WINDOW
from tinygpt.models.modes import evaluating
from tinygpt.sampling import Sampler
from tinygpt.sampling.text_stream import Pieces
from tinygpt.sampling.window import read_windows
from tinygpt.tokenizer import CharTokenizer, Tokenizer, decode_alone, encode_text
from tinygpt.views.page import Html, fragment, page
from tinygpt.views.terminal import in_colours

Guess = tuple[int, str, float]


@dataclass(frozen=True, eq=False)
class Reading:
    """How a model reads a text, one entry for each token.

    :func:`~tinygpt.views.read` makes it. A notebook shows the text shaded by surprise, :meth:`ansi` shows the same in a
    terminal, and :meth:`page` makes a page to explore.

    The model reads ``start_id`` and then all tokens but the last. The row of token ``i`` is that of the position which
    predicts it: column 0 is the start, and column ``j`` is token ``j - 1``.

    Attributes:
        ids: The id of each token.
        pieces: The text of each token. If a character spans several tokens, the last token has its text and the
            earlier ones are empty.
        bits: Surprise of each token, ``-log2`` of its probability, as :meth:`Sampler.score` gives it.
        top: The most likely ids before each token, the likeliest first, each with its text and probability.
        attention: Weights of each attention by the name of its module, ``H N N``: head, row, column. Empty for a text
            longer than ``block_size``, which no single window contains, and without attentions that offer ``weights``.
        lens: The logit lens: the probability of each token by the last norm and the LM head, after the embedding and
            after each block. None if the model is not a :class:`GPTLanguageModel` that works in this way.
    """

    ids: Int64[np.ndarray, " N"]
    pieces: list[str] = field(repr=False)
    bits: Float64[np.ndarray, " N"]
    top: list[list[Guess]] = field(repr=False)
    attention: Mapping[str, Float[np.ndarray, "H N N"]] = field(repr=False)
    lens: Float64[np.ndarray, "L N"] | None = field(repr=False)

    @property
    def text(self) -> str:
        """The text that was read."""
        return "".join(self.pieces)

    @property
    def bits_per_character(self) -> float:
        """The surprise of the whole text, divided by its number of characters."""
        return float(self.bits.sum()) / max(1, len(self.text))

    def __repr__(self) -> str:
        heads = sum(map(len, self.attention.values()))
        return f"Reading({len(self.ids):,} tokens, {self.bits_per_character:.3f} bits per character, {heads} heads)"

    def _repr_html_(self) -> str:
        """Return the text shaded by surprise, for a notebook."""
        return fragment(self)

    def ansi(self, colours: int | None = None) -> str:
        """Return the text shaded by surprise, for a terminal.

        Args:
            colours: Number of colours of the terminal: 0, 256 or 16,777,216. By default the environment decides:
                ``NO_COLOR``, ``FORCE_COLOR``, ``TERM``, ``COLORTERM``, and whether standard output is a terminal.

        Raises:
            ConfigError: If ``colours`` is another number.
        """
        return in_colours(zip(self.pieces, self.bits.tolist(), strict=True), colours)

    def page(self, path: str | os.PathLike[str] | None = None) -> Html:
        """Return a page to explore: the text, the guesses, the logit lens and all heads.

        The page is one HTML file that needs no network. A notebook shows it in a frame, with the last 128 tokens at
        most.

        Args:
            path: A file to write the page to, or None.

        Raises:
            ConfigError: If ``path`` cannot be the name of a file.
            OSError: If the file cannot be written.
        """
        return page(self, path)


@checked_names
def read(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    top_k: int = 6,
    stride: int | None = None,
    start_id: int | None = None,
) -> Reading:
    """Read a text with a model, and return what the model expects of each token.

    The model computes in evaluation mode and without a graph, and is afterwards as it was before. Past ``block_size``
    it reads the windows of generation, as :meth:`Sampler.score` does.

    Args:
        model: Any language model.
        tokenizer: Turns the text into ids.
        text: The text, of at least one token.
        top_k: Number of guesses to keep for each token.
        stride: How far the window slides; by default a quarter of ``block_size``.
        start_id: The id that the model reads before the first token; by default that of :class:`Sampler`.

    Raises:
        ConfigError: If a number is out of range, or the tokenizer has more ids than the model.
        DataError: If the text has no token.
        InputTypeError: If an argument has the wrong type.
        NonFiniteError: If the model returns NaN or infinity.
        TokenizerError: If the text has a character that the tokenizer does not know.

    Example:
        >>> from tinygpt.views import read
        >>> model = GPTConfig.modern(vocab_size=3, block_size=8, n_layer=2, n_head=4, n_embd=16).build(seed=0)
        >>> reading = read(model, CharTokenizer("abc"), "abba")
        >>> reading
        Reading(4 tokens, 1.626 bits per character, 8 heads)
        >>> reading.attention["blocks.0.attention"].shape
        (4, 4, 4)

    Source:
        For the logit lens: nostalgebraist, *interpreting GPT: the logit lens*, 2020.
        https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens
    """
    sampler = Sampler(model, tokenizer, stride=stride, start_id=start_id)  # it checks them
    check_integer("top_k", top_k, minimum=1)
    if not isinstance(text, str):
        raise InputTypeError(f"text must be a str, got {type(text).__name__}")
    ids = encode_text(tokenizer, text).tolist()
    if not ids:
        raise DataError(f"text must have at least one token, got {short(text)}")
    given = torch.tensor([sampler.start_id, *ids], device=model.device)
    block_size = model.block_size or WINDOW
    attentions = attentions_of(model) if len(ids) <= block_size else {}
    stages = _stages(model)
    alone = cache(partial(decode_alone, tokenizer))

    bits, top, lens = [], [], []
    rest = given[1:, None].cpu()
    with evaluating(model), watching(attentions, weigh) as weights, watching(stages, lambda _, x: x.clone()) as stream:
        for rows in read_windows(model, given, block_size, sampler.stride, tokenizer.vocab_size):
            targets, rest = rest[: len(rows)], rest[len(rows) :]
            lens.append(_look_through(model, stream, targets, tokenizer.vocab_size))
            bits.append(-rows.gather(1, targets)[:, 0] / math.log(2))
            for row in rows.exp().numpy():
                top.append([(id, alone(id), float(row[id])) for id in _likeliest(row, top_k)])
    surprise = torch.cat(bits).numpy()
    return Reading(
        ids=np.array(ids),
        pieces=_pieces(tokenizer, ids),
        bits=surprise,
        top=top,
        attention={name: heads[0].cpu().numpy() for name, heads in heads_by_name(weights, len(ids)).items()},
        lens=_checked_lens(lens, surprise),
    )


@contextmanager
def watching(
    modules: Mapping[str, nn.Module], look: Callable[[nn.Module, Tensor], Tensor]
) -> Iterator[dict[str, list[Tensor]]]:
    """Collect ``look(module, input)`` at each call of some modules inside the block, by this thread alone."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    reader = get_ident()

    def hook(name: str) -> Callable[..., None]:
        # PyTorch adds a hook before its mark for keywords, so a call in another thread may come without them.
        def before(module: nn.Module, values: tuple[Any, ...], named: Mapping[str, Any] = MappingProxyType({})) -> None:
            if get_ident() == reader:
                seen[name].append(look(module, values[0] if values else next(iter(named.values()))))

        return before

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(hook(name), with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attentions_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose class offers ``weights``, by name."""
    return {name: module for name, module in model.named_modules() if callable(getattr(type(module), "weights", None))}


def weigh(attention: Any, x: Tensor) -> Tensor:
    """Return the weights of an attention for its input."""
    weights: Tensor = attention.weights(x)
    return weights


def heads_by_name(seen: Mapping[str, list[Tensor]], length: int) -> dict[str, Float[Tensor, "B H N N"]]:
    """Return the weights of each attention that was called, ``B T T`` as one head.

    A module that is called several times has one entry for each call. Weights of another shape are left out.
    """
    found = {}
    for name, calls in seen.items():
        for number, weights in enumerate(calls, start=1):
            heads = weights[:, None] if weights.ndim == 3 else weights
            if heads.ndim == 4 and heads.shape[2:] == (length, length):
                precise = torch.promote_types(heads.dtype, torch.float32)  # NumPy has no bfloat16
                found[name if len(calls) == 1 else f"{name}, call {number}"] = heads.to(precise)
    return found


def _stages(model: LanguageModel) -> dict[str, nn.Module]:
    """Return the modules whose inputs are the residual stream after the embedding and after each block."""
    if not isinstance(model, GPTLanguageModel):
        return {}
    return {**{f"blocks.{layer}": block for layer, block in enumerate(model.blocks)}, "norm": model.norm}


def _look_through(
    model: Any, stream: dict[str, list[Tensor]], targets: Int64[Tensor, "K 1"], vocab_size: int
) -> Float64[np.ndarray, "L K"] | None:
    """Return the probabilities of the targets by norm and LM head at each stage of the last window."""
    stages = [calls[-1] for calls in stream.values() if len(calls) == 1]
    if not stages or len(stages) < len(stream):
        return None  # a part that is called more than once has no single stage
    rows = []
    for x in stages:
        logits = model.head(model.norm(x))[0, -len(targets) :, :vocab_size]
        rows.append(logits.cpu().double().softmax(dim=-1).gather(1, targets)[:, 0])
    for calls in stream.values():
        calls.clear()
    return torch.stack(rows).numpy()


def _checked_lens(
    windows: list[Float64[np.ndarray, "L _K"] | None], bits: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, "L N"] | None:
    """Join the lens of each window; None unless its last row is what the model itself predicts."""
    known = [window for window in windows if window is not None]
    if len(known) < len(windows):
        return None
    lens = np.concatenate(known, axis=1)
    return lens if np.allclose(lens[-1], 2**-bits, rtol=0.01, atol=1e-6) else None


def _likeliest(probabilities: Float64[np.ndarray, " V"], count: int) -> list[int]:
    """Return the likeliest ids in order, of equals the lower one first."""
    count = min(count, len(probabilities))
    known = np.flatnonzero(probabilities >= np.partition(probabilities, -count)[-count])
    order = np.argsort(-probabilities[known], kind="stable")[:count]
    return [int(id) for id in known[order]]


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Return the text that each id adds."""
    if isinstance(tokenizer, CharTokenizer):
        return [tokenizer.decode([id]) for id in ids]
    pieces = Pieces(tokenizer, "", None, [])
    return [pieces.add(id, last=number == len(ids)) for number, id in enumerate(ids, start=1)]
