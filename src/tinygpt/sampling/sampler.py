"""The :class:`Sampler`: text from a model, and how likely the model finds a text."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor

from tinygpt.errors import ConfigError, InputTypeError, check_integer, check_truth, checked_names, short
from tinygpt.models import LanguageModel
from tinygpt.models.base import WINDOW, check_finite, check_model
from tinygpt.models.modes import evaluating
from tinygpt.randomness import check_seed, derive_seed, uniforms
from tinygpt.runtime import compile_loops, compile_or_warn, keep_freed_memory
from tinygpt.sampling.filters import Filters, draw
from tinygpt.sampling.text_stream import DECODED_TOGETHER, Pieces
from tinygpt.sampling.window import Reader, Row, read_one
from tinygpt.tokenizer import Tokenizer, check_tokenizer, check_trained_with, encode_text

Prompt = TypeVar("Prompt", str, list[str])


class Sampler:
    """Writes text with a model, and says how likely the model finds a text.

    Always in evaluation mode and without a graph; the model's mode is restored whatever happens. Where all parts of
    the model that look back keep caches, each id costs one place, else a whole window; the ids are the same. Memory
    does not grow with the text.

    *Randomness.* The draw at each place depends on the seed, the row and the place alone: not on other rows, not on
    PyTorch's generator, not on what was drawn before. So a text whose prompt was not empty can be
    continued exactly where it stopped.

    *Past* ``block_size`` the window drops its ``stride`` oldest ids and is read again, and then grows until it is
    full. With ``stride=1`` each id sees the last ``block_size`` ids, as in ``LanguageModel.generate``, at the price of
    a whole window for each. By default it is a quarter of the block.

    Args:
        model: Any language model.
        tokenizer: Turns prompts into ids and ids into text.
        stride: How far the window slides, 1 to ``block_size``.
        start_id: The id that an empty prompt starts from. It is not part of the text. The default, 0, is a line break
            in most character vocabularies.
        compile: Whether to compile the reading of a single id into a cache with :func:`torch.compile`. The first text
            then takes some ten to twenty seconds more, and each id about half the time, so it pays for tens of
            thousands of ids. The first list of texts is compiled as well; it then takes about three quarters of the
            time in bfloat16, as long in float32, and longer in float16. It needs a C++ compiler; without one there is
            a warning, and the sampler works as before. A model without caches has nothing to be compiled.

    Raises:
        ConfigError: If ``stride`` or ``start_id`` is out of range, ``compile`` is neither True nor False, or the
            tokenizer has another number of ids than the model.
        InputTypeError: If ``model`` is not a language model, or the tokenizer lacks one of its three names.
        TokenizerError: If the model was trained with other symbols.

    Example:
        >>> tokenizer = CharTokenizer("abc")
        >>> sampler = Sampler(BigramLanguageModel(vocab_size=3), tokenizer)
        >>> len(sampler.generate("ab", max_new_tokens=10, seed=1))
        12
    """

    @checked_names
    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        stride: int | None = None,
        start_id: int = 0,
        compile: bool = False,
    ) -> None:
        check_model("model", model)
        self.model = model
        self.tokenizer = check_tokenizer(tokenizer)
        if tokenizer.vocab_size != model.vocab_size:
            raise ConfigError(
                f"the tokenizer must have as many ids as the model, got {tokenizer.vocab_size} and "
                f"{model.vocab_size}; use the tokenizer that the model was trained with"
            )
        check_trained_with(model, tokenizer)
        self._window = model.block_size or WINDOW
        stride = max(1, self._window // 4) if stride is None else stride
        self.stride = check_integer("stride", stride, minimum=1, maximum=self._window)
        self.start_id = check_integer("start_id", start_id, minimum=0, maximum=model.vocab_size - 1)
        self._read_one = compile_or_warn(read_one, compile_loops) if check_truth("compile", compile) else read_one

    @checked_names
    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Prompt:
        """Continue a text, or several at once.

        Args:
            prompt: A text of any length, also none, or a list of texts of any lengths. Of a long one the model reads
                the end.
            max_new_tokens: How many ids to write, at most.
            temperature: Divides the logits: below 1 bolder, above 1 wilder; 0 always takes the likeliest id, of
                equals the lowest.
            top_k: Draw from this many likeliest ids only; see :func:`~tinygpt.sampling.keep_top_k`.
            top_p: Draw from the likeliest ids of this total probability only; see :func:`~tinygpt.sampling.keep_top_p`.
            min_p: Draw from ids at least this share as probable as the likeliest; see
                :func:`~tinygpt.sampling.keep_min_p`.
            stop: A text, or several. A row ends as soon as one of them is complete. It is not part of the result,
                except for what the prompt has of it: a stop string may begin in the prompt and end in the new text.
                One that ends within the prompt does not count.
            seed: A number from 0 to 2**64 - 1, or one for each prompt. With one number the first row of a list is
                written as if it were alone.

        Returns:
            The prompt and what was written after it; a list for a list.

        Raises:
            ConfigError: If an option is out of range.
            InputTypeError: If a prompt is not a string, or the tokenizer returns ids that are not integers, or a text
                that is not a str.
            NonFiniteError: If the model returns NaN or infinity.
            TokenizerError: If a prompt has a character that the tokenizer does not know, or the tokenizer returns an id
                that is not in ``range(vocab_size)``.
        """
        if isinstance(prompt, bytes) or not isinstance(prompt, str | Sequence):
            raise InputTypeError(f"prompt must be a str or a list of them, got {type(prompt).__name__}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        rows = self._rows(prompts, max_new_tokens, stop, seed, together=DECODED_TOGETHER)
        filters = Filters(temperature, top_k, top_p, min_p)
        texts = {row: [text] for row, text in zip(rows, prompts, strict=True)}
        with evaluating(self.model):
            for written in self._write(rows, filters):
                for row, piece in written:
                    texts[row].append(piece)
        whole = ["".join(texts[row]) for row in rows]
        return whole[0] if isinstance(prompt, str) else whole

    @checked_names
    def stream(
        self,
        prompt: str,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Return an iterator over the new text, a piece for each id, as it is written.

        The pieces joined are what :meth:`generate` appends to the prompt. A piece is empty while its text may still
        turn out to be part of a stop string or of a character of several ids. Arguments and errors are those of
        :meth:`generate`; they are checked at once, the first id is drawn when the first piece is asked for.
        """
        if not isinstance(prompt, str):
            raise InputTypeError(f"prompt must be a str to be streamed, got {type(prompt).__name__}; use generate")
        rows = self._rows([prompt], max_new_tokens, stop, seed)
        filters = Filters(temperature, top_k, top_p, min_p)
        return self._pieces(self._write(rows, filters))

    def score(self, text: str) -> Float64[Tensor, " N"]:
        """Return the log-probability, in nats, of each id of a text, given those before it.

        The first is given ``start_id``. Past ``block_size`` the model reads the windows that it would read in
        writing, so that these are the probabilities the text would have been written with at temperature 1.

        Raises:
            InputTypeError: If ``text`` is not a string.
            NonFiniteError: If the model returns NaN or infinity.
            TokenizerError: If it has a character that the tokenizer does not know.

        Example:
            >>> sampler = Sampler(BigramLanguageModel(vocab_size=3), CharTokenizer("abc"))
            >>> sampler.score("abba").shape
            torch.Size([4])
        """
        if not isinstance(text, str):
            raise InputTypeError(f"text must be a str, got {type(text).__name__}")
        ids = torch.tensor([self.start_id, *encode_text(self.tokenizer, text).tolist()], device=self.model.device)
        scores = [torch.empty(0, dtype=torch.float64)]
        done = 1  # so many ids need no more score: the start is given
        with evaluating(self.model):
            while done < len(ids):
                start = self._window_start(done)
                end = min(start + self._window, len(ids) - 1)
                logits = self.model.compute_logits(ids[None, start:end])[0, done - start - 1 :]
                check_finite(logits, "after {} ids", first=done)
                log_probabilities = logits.cpu().double().log_softmax(dim=-1)
                scores.append(log_probabilities.gather(1, ids[done : end + 1, None].cpu())[:, 0])
                done = end + 1
        return torch.cat(scores)

    def _window_start(self, length: int) -> int:
        """Return where the window starts after ``length`` ids: a function of that number alone.

        So rows of one length share their window, a row's window does not depend on its neighbours, and a text that is
        continued later is read as if it had never stopped.
        """
        over = max(0, length - self._window)
        return -(-over // self.stride) * self.stride

    def _rows(
        self,
        prompts: list[str],
        max_new_tokens: int,
        stop: str | Sequence[str] | None,
        seed: int | Sequence[int],
        together: int = 1,
    ) -> list[Row]:
        check_integer("max_new_tokens", max_new_tokens, minimum=0)
        stops = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, Sequence) else []
        known = stop is None or isinstance(stop, Sequence)
        if not known or not all(isinstance(text, str) and text for text in stops):
            raise ConfigError(f"stop must be a text of at least one character, or a list of such, got {short(stop)}")
        if isinstance(seed, Sequence) and not isinstance(seed, str):
            if len(seed) != len(prompts):
                raise ConfigError(f"seed must be one number or one for each prompt, got {len(seed)} for {len(prompts)}")
            keys = [derive_seed(check_seed(number), "sample", 0) for number in seed]
        else:
            keys = [derive_seed(check_seed(seed), "sample", row) for row in range(len(prompts))]
        rows = []
        for text, key in zip(prompts, keys, strict=True):
            if not isinstance(text, str):
                raise InputTypeError(f"prompt must be a str or a list of them, got {type(text).__name__}")
            ids = encode_text(self.tokenizer, text).tolist() or [self.start_id]
            pieces = Pieces(self.tokenizer, text, ids[-1], stops, 1 if stops else together)
            rows.append(Row(ids, len(ids) + max_new_tokens, key, pieces, self._window))
        return rows

    def _pieces(self, steps: Iterator[list[tuple[Row, str]]]) -> Iterator[str]:
        """Take the steps of a single row one by one, with the model as it was in between.

        The mode is set for each step, not over a ``yield``: whoever iterates may train in between, or never return.
        """
        while True:
            with evaluating(self.model):
                written = next(steps, [])
            if not written:
                return
            yield written[0][1]

    def _write(self, rows: list[Row], filters: Filters) -> Iterator[list[tuple[Row, str]]]:
        """Write an id to the shortest rows again and again until all are done, yielding what each step wrote."""
        keep_freed_memory()
        reader = Reader(self.model, self._read_one)
        while unfinished := [row for row in rows if not row.done]:
            length = min(row.length for row in unfinished)
            active = [row for row in unfinished if row.length == length]
            logits = reader.read(active, length, self._window_start(length)).cpu().double()
            check_finite(logits, f"after {length} ids in row {{}}")
            chances = uniforms([row.key for row in active], length)
            ids = draw(filters(logits), torch.from_numpy(chances)).tolist()
            yield [(row, row.append(new)) for row, new in zip(active, ids, strict=True)]
