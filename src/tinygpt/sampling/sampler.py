"""The :class:`Sampler`: writes text with a model, and scores a text."""

import operator
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from typing import Any, NamedTuple, overload

import torch
from jaxtyping import Float64
from torch import Tensor

from tinygpt.checkpoint import load, save
from tinygpt.errors import (
    CheckpointMismatchError,
    ConfigError,
    check_integer,
    check_truth,
    checked_names,
    short,
    show,
)
from tinygpt.files import check_path
from tinygpt.models import LanguageModel
from tinygpt.models.base import WINDOW, check_finite
from tinygpt.models.inspection import check_model
from tinygpt.models.modes import evaluating
from tinygpt.randomness import check_seed, derive_seed, uniforms
from tinygpt.runtime import compile_loops, compile_or_warn, keep_freed_memory
from tinygpt.sampling.choices import Choice, choice_of
from tinygpt.sampling.filters import draw, filter_logits
from tinygpt.sampling.prompts import Prompt, as_list, check_ids, check_text, is_one, joined
from tinygpt.sampling.steering import Filter, check_filters, steer
from tinygpt.sampling.text_stream import DECODED_TOGETHER, Pieces
from tinygpt.sampling.window import Reader, Row, read_one, read_windows, window_start
from tinygpt.tokenizer import Tokenizer, check_tokenizer, check_trained_with, encode_text, end_id_of


class Step(NamedTuple):
    """A token for each of some rows: what it was drawn from, and the text that is certain then."""

    rows: list[Row]
    logits: Float64[Tensor, "B V"]
    steered: Float64[Tensor, "B V"]  # after the filters and the other options
    ids: list[int]
    pieces: list[str]


class Sampler:
    """Writes text with a model, and scores how likely the model finds a text.

    A sampler is the pair of a model and its tokenizer: it is called with a prompt, and saved and loaded as one file.
    It computes in evaluation mode and without a graph, and restores the model's mode afterwards. If all parts of the
    model that look back keep caches, a token costs one position, else a whole window; the text is the same. Memory
    does not grow with the text.

    *Randomness.* The draw at each position depends on the seed, the row and the position alone: not on other rows,
    not on PyTorch's generator, not on earlier draws. A text whose prompt was not empty can be continued exactly where
    it stopped.

    *Past* ``block_size`` the window drops its ``stride`` oldest tokens, is read again, and grows until it is full.
    With ``stride=1`` each token sees the last ``block_size`` tokens, as in ``LanguageModel.generate``, and costs a
    whole window.

    *Ids.* A text ends at the ``end_id`` of the tokenizer, if it has one. A tokenizer may have fewer ids than the model;
    the others are never drawn.

    Args:
        model: Any language model.
        tokenizer: Turns prompts into ids and ids into text.
        stride: How far the window slides, 1 to ``block_size``; by default a quarter of ``block_size``.
        start_id: The id that an empty prompt starts from. It is not part of the text. The default is the ``end_id`` of
            the tokenizer if it has one, else 0, a line break in most character vocabularies.
        compile: Whether to compile the reading of a single token with :func:`torch.compile`. The first text then takes
            longer and each token less, so it pays for tens of thousands of tokens; see the
            :doc:`benchmarks </benchmarks>`. Without a C++ compiler there is a warning, and the sampler works as before.
            A model without caches is not compiled.

    Attributes:
        end_id: The ``end_id`` of the tokenizer, at which a text ends, or None.
        last_seed: The seed that was drawn for the last text without one, or None. Passing it as ``seed`` writes that
            text again.

    Raises:
        ConfigError: If ``stride`` or ``start_id`` is out of range, ``compile`` is neither True nor False, or the
            tokenizer has more ids than the model.
        InputTypeError: If ``model`` is not a language model, or the tokenizer lacks one of its three names.
        TokenizerError: If the model was trained with other symbols, or the tokenizer's ``end_id`` is out of range.

    Example:
        >>> sampler = Sampler(BigramLanguageModel(vocab_size=3), CharTokenizer("abc"))
        >>> len(sampler("ab", max_new_tokens=10))
        12
    """

    @checked_names
    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        stride: int | None = None,
        start_id: int | None = None,
        compile: bool = False,
    ) -> None:
        check_model("model", model)
        self.model = model
        self.tokenizer = check_tokenizer(tokenizer)
        check_trained_with(model, tokenizer)
        self._vocab_size = operator.index(tokenizer.vocab_size)
        self.end_id = end_id_of(tokenizer)
        self._window = model.block_size or WINDOW
        stride = max(1, self._window // 4) if stride is None else stride
        self.stride = check_integer("stride", stride, minimum=1, maximum=self._window)
        start_id = self.end_id or 0 if start_id is None else start_id
        self.start_id = check_integer("start_id", start_id, minimum=0, maximum=self._vocab_size - 1)
        self.last_seed: int | None = None
        self._read_one = compile_or_warn(read_one, compile_loops) if check_truth("compile", compile) else read_one

    def __repr__(self) -> str:
        model, tokenizer = type(self.model).__name__, type(self.tokenizer).__name__
        return f"Sampler({model}, {tokenizer}, stride={self.stride}, last_seed={self.last_seed})"

    def _repr_html_(self) -> str:
        """Return the pair and the options as a table, for a notebook."""
        facts = {
            "model": f"{type(self.model).__name__}, {self.model.num_parameters():,} parameters",
            "tokenizer": repr(self.tokenizer),
            "window": f"{self._window:,} tokens, stride {self.stride:,}",
            "last seed": self.last_seed,
        }
        rows = "".join(f"<tr><th>{name}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items())
        return f"<table>{rows}</table>"

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, into: LanguageModel | None = None, tokenizer: Tokenizer | None = None
    ) -> "Sampler":
        """Load model and tokenizer from one file.

        For other settings than the defaults use ``Sampler(*tinygpt.load(path), stride=1)``.

        Args:
            path: A file of :meth:`save`, :func:`tinygpt.save` or a ``Trainer``, e.g. ``"run/best.safetensors"``.
            into: A model to load the weights into, for one composed or changed by hand.
            tokenizer: The tokenizer that the model was saved or trained with, if the file does not contain it.

        Raises:
            CheckpointMismatchError: If the file has no tokenizer.
            TinyGPTError: The errors of :func:`tinygpt.load`.
        """
        model, tokenizer = load(path, into=into, tokenizer=tokenizer)
        if tokenizer is None:
            raise CheckpointMismatchError(
                f"a Sampler needs a tokenizer, got a file without one, {show(check_path('path', path))}; use "
                "Sampler.load(path, tokenizer=tokenizer)"
            )
        return cls(model, tokenizer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model and tokenizer to one file, as :func:`tinygpt.save` does."""
        save(path, self.model, self.tokenizer)

    @checked_names
    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        filters: Sequence[Filter] = (),
        stop: str | Sequence[str] | None = None,
        stop_ids: Sequence[int] = (),
        seed: int | Sequence[int] | None = None,
    ) -> Prompt:
        """Continue a text, or several at once; calling the sampler does the same.

        Args:
            prompt: A text of any length, also empty, or a list of texts of any lengths. Only the last ``block_size``
                tokens of a longer prompt are used. A list of ids, or a list of such lists, works too.
            max_new_tokens: Number of tokens to generate, at most.
            temperature: Divides the logits: values below 1 make sampling more conservative, above 1 more random; 0 is
                greedy.
            top_k: Draw from the ``top_k`` most likely tokens only; see :func:`~tinygpt.sampling.keep_top_k`.
            top_p: Draw from the smallest set of most likely tokens with this probability; see
                :func:`~tinygpt.sampling.keep_top_p`.
            min_p: Draw from the tokens that have at least this share of the largest probability; see
                :func:`~tinygpt.sampling.keep_min_p`.
            filters: Functions ``f(logits, ids)`` that return new logits, applied in their order before all other
                options. ``logits`` are ``B V`` in float64, ``ids`` ``B T`` the last ``block_size`` ids of each row, the
                prompt included; both are on the CPU. A filter must treat each row alone, and keep no state. See
                :func:`~tinygpt.sampling.forbid` and its kin.
            stop: A stop string, or several. A row ends as soon as one of them is complete. It is not part of the
                result. It may begin in the prompt, which keeps its part, but not end in the prompt.
            stop_ids: Ids at which a row ends. Such an id is not part of the result, nor is the tokenizer's ``end_id``,
                which always ends a row.
            seed: A number from 0 to 2**64 - 1, or one for each prompt. With one number the first row of a list is
                written as if it were alone. None draws a new seed, kept as ``last_seed``.

        Returns:
            The prompt and the new text after it, or ids for ids; a list for a list.

        Raises:
            ConfigError: If an option is out of range, the filters leave nothing to draw, or ``stop`` is given with
                prompts of ids.
            InputTypeError: If a prompt is neither a string nor a list of integers, a filter does not return logits, or
                the tokenizer returns ids that are not integers, or a text that is not a str.
            NonFiniteError: If the model returns NaN or infinity.
            TokenizerError: If a prompt has a character that the tokenizer does not know, or an id is not in
                ``range(vocab_size)``.
        """
        prompts = as_list("prompt", prompt)
        options = partial(filter_logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        steps = self._steps(prompts, max_new_tokens, stop, stop_ids, seed, filters, options, together=DECODED_TOGETHER)
        written: list[list[Any]] = [[] for _ in prompts]
        with evaluating(self.model):
            for step in steps:
                for row, new, piece in zip(step.rows, step.ids, step.pieces, strict=True):
                    if isinstance(prompts[row.number], str):
                        written[row.number].append(piece)
                    elif new not in row.stop_ids:
                        written[row.number].append(new)
        whole: Any = list(map(joined, prompts, written))
        return whole[0] if is_one(prompt) else whole

    __call__ = generate

    @checked_names
    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        filters: Sequence[Filter] = (),
        stop: str | Sequence[str] | None = None,
        stop_ids: Sequence[int] = (),
        seed: int | None = None,
    ) -> Iterator[str]:
        """Return an iterator over the new text, one piece per token.

        The pieces joined are what :meth:`generate` appends to the prompt. A piece is empty while its text may still
        turn out to be part of a stop string or of a character of several tokens. Arguments and errors are those of
        :meth:`generate`. They are checked at once; the first token is drawn when the first piece is asked for.
        """
        check_text(prompt)
        options = partial(filter_logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        steps = self._steps([prompt], max_new_tokens, stop, stop_ids, seed, filters, options)
        return (step.pieces[0] for step in self._evaluated(steps))

    @checked_names
    def choices(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        *,
        top: int = 5,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        filters: Sequence[Filter] = (),
        stop: str | Sequence[str] | None = None,
        stop_ids: Sequence[int] = (),
        seed: int | None = None,
    ) -> Iterator[Choice]:
        """Return an iterator over the new tokens with their probabilities.

        The tokens are those of :meth:`stream`, and a token that ends the text comes last. ``top`` is the number of
        alternatives for each. The other arguments, and the errors, are those of :meth:`generate`.

        Example:
            >>> sampler = Sampler(BigramLanguageModel(vocab_size=3), CharTokenizer("abc"))
            >>> choice = next(sampler.choices("ab", top=2, temperature=0))
            >>> choice.id == choice.alternatives[0].id, choice.drawn_with
            (True, 1.0)
        """
        check_text(prompt)
        check_integer("top", top, minimum=0)
        options = partial(filter_logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        steps = self._steps([prompt], max_new_tokens, stop, stop_ids, seed, filters, options)
        return (
            choice_of(step.ids[0], step.pieces[0], step.logits[0], step.steered[0], self.tokenizer, top)
            for step in self._evaluated(steps)
        )

    @overload
    def score(self, text: str | list[int]) -> Float64[Tensor, " N"]: ...

    @overload
    def score(self, text: list[str] | list[list[int]]) -> list[Tensor]: ...

    def score(self, text: Any) -> Any:
        """Return the log-probability of each token of a text, in nats.

        Each token is given those before it, the first one ``start_id``. Past ``block_size`` the model reads the windows
        of generation, so these are the probabilities with which the text would be drawn at temperature 1.

        Args:
            text: A text, a list of ids, or a list of such.

        Returns:
            A tensor with an entry for each token; a list for a list.

        Raises:
            InputTypeError: If ``text`` is neither a string nor a list.
            NonFiniteError: If the model returns NaN or infinity.
            TokenizerError: If the text has a character that the tokenizer does not know, or an id is not in
                ``range(vocab_size)``.

        Example:
            >>> sampler = Sampler(BigramLanguageModel(vocab_size=3), CharTokenizer("abc"))
            >>> sampler.score("abba").shape
            torch.Size([4])
        """
        scores = [self._score(each) for each in as_list("text", text)]
        return scores[0] if is_one(text) else scores

    def _score(self, text: Any) -> Float64[Tensor, " N"]:
        ids = torch.tensor([self.start_id, *self._ids_of("text", text)], device=self.model.device)
        scores, rest = [torch.empty(0, dtype=torch.float64)], ids[1:, None].cpu()
        with evaluating(self.model):
            for rows in read_windows(self.model, ids, self._window, self.stride, self._vocab_size):
                scores.append(rows.gather(1, rest[: len(rows)])[:, 0])
                rest = rest[len(rows) :]
        return torch.cat(scores)

    def _steps(
        self,
        prompts: list[Any],
        max_new_tokens: int,
        stop: str | Sequence[str] | None,
        stop_ids: Sequence[int],
        seed: int | Sequence[int] | None,
        filters: Sequence[Filter],
        options: Callable[[Tensor], Tensor],
        together: int = 1,
    ) -> Iterator[Step]:
        """Check all options, and return an iterator that writes to a row for each prompt."""
        check_integer("max_new_tokens", max_new_tokens, minimum=0)
        options(torch.zeros(1, 1, dtype=torch.float64))  # each of them checks its own number
        stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
            raise ConfigError(f"stop must be a text of at least one character, or a list of such, got {short(stop)}")
        if isinstance(seed, Sequence) and not isinstance(seed, str):
            if len(seed) != len(prompts):
                raise ConfigError(f"seed must be one number or one for each prompt, got {len(seed)} for {len(prompts)}")
            keys = [derive_seed(check_seed(number), "sample", 0) for number in seed]
        else:
            if seed is None:
                seed = self.last_seed = secrets.randbits(32)
            keys = [derive_seed(check_seed(seed), "sample", row) for row in range(len(prompts))]
        rows = []
        ends = frozenset([self.end_id, *check_ids("stop_ids", stop_ids, self._vocab_size)])
        for number, (text, key) in enumerate(zip(prompts, keys, strict=True)):
            if stops and not isinstance(text, str):
                raise ConfigError(f"stop must be None for a prompt of ids, got {short(stop)}; use stop_ids")
            ids = self._ids_of("prompt", text) or [self.start_id]
            before = text if isinstance(text, str) else ""
            pieces = Pieces(self.tokenizer, before, ids[-1], stops, 1 if stops else together)
            row = Row(
                number,
                ids,
                end=len(ids) + max_new_tokens,
                stop_ids=ends,
                key=key,
                pieces=pieces,
                block_size=self._window,
            )
            rows.append(row)
        return self._write(rows, check_filters(filters), options)

    def _ids_of(self, name: str, text: Any) -> list[int]:
        """Return the ids of a text, or ids if they are in the vocabulary."""
        if isinstance(text, str):
            return encode_text(self.tokenizer, text).tolist()
        return check_ids(name, text, self._vocab_size)

    def _evaluated(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Compute each step in evaluation mode.

        The mode is set for each step, not over a ``yield``: the caller may train in between, or never return.
        """
        while True:
            with evaluating(self.model):
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _write(self, rows: list[Row], filters: Sequence[Filter], options: Callable[[Tensor], Tensor]) -> Iterator[Step]:
        """Append a token to the shortest rows until all are done."""
        keep_freed_memory()
        reader = Reader(self.model, self._read_one)
        while unfinished := [row for row in rows if not row.done]:
            length = min(row.length for row in unfinished)
            active = [row for row in unfinished if row.length == length]
            logits = reader.read(active, length, window_start(length, self._window, self.stride))
            logits = logits[:, : self._vocab_size].cpu().double()
            where, numbers = f"after {length} ids in row {{}}", [row.number for row in active]
            check_finite(logits, where, numbers)
            steered = logits
            if filters:
                steered = steer(filters, logits, torch.tensor([list(row.ids) for row in active]), where, numbers)
            steered = options(steered)
            chances = torch.from_numpy(uniforms([row.key for row in active], length))
            ids = draw(steered, chances).tolist()
            yield Step(active, logits, steered, ids, [row.append(new) for row, new in zip(active, ids, strict=True)])
