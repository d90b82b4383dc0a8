"""Find heads of known kinds: those that read the token before, and those that continue a repetition."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from jaxtyping import Float64

from tinygpt.errors import ConfigError, check_integer, checked_names
from tinygpt.models import LanguageModel
from tinygpt.models.inspection import check_model
from tinygpt.models.modes import evaluating
from tinygpt.randomness import check_seed, derive_seed, uniforms
from tinygpt.views.reading import attentions_of, heads_by_name, watching, weigh

_LENGTH = 24


@dataclass(frozen=True, eq=False)
class HeadScores:
    """The scores of each head, a table when printed.

    A score is the mean weight on one position, from 0 to 1.

    Attributes:
        previous: Weight on the position before, of each head by the name of its attention.
        induction: Weight on the position after an earlier copy of the same token.
        even: The two scores of a head that reads all positions before it, and itself, evenly.
    """

    previous: Mapping[str, Float64[np.ndarray, " H"]]
    induction: Mapping[str, Float64[np.ndarray, " H"]]
    even: tuple[float, float]

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = [
            (f"{name}, head {head}", f"{self.previous[name][head]:.3f}", f"{self.induction[name][head]:.3f}")
            for name in self.previous
            for head in range(len(self.previous[name]))
        ]
        return [("", "previous", "induction"), *rows, ("even reading", f"{self.even[0]:.3f}", f"{self.even[1]:.3f}")]

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{name:<{width}}  {previous:>8}  {induction:>9}" for name, previous, induction in rows)

    def __repr__(self) -> str:
        kinds = {"previous": self.previous, "induction": self.induction}
        highest = (f"{kind} at most {max(map(max, scores.values())):.3f}" for kind, scores in kinds.items())
        return f"HeadScores({len(self._rows()) - 2} heads, {', '.join(highest)})"

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        head, *rows = (tuple(map(escape, row)) for row in self._rows())
        body = "".join(f"<tr><th>{name}</th><td>{one}</td><td>{other}</td></tr>" for name, one, other in rows)
        return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{body}</table>"


@checked_names
def head_scores(model: LanguageModel, *, length: int | None = None, batch_size: int = 8, seed: int = 0) -> HeadScores:
    """Score each head as a previous-token head and as an induction head.

    The model reads random ids, and then the same ids once more. A *previous-token head* reads the position before each
    one. An *induction head* finds the earlier copy of the current token and reads the token after that copy, which
    comes next. Induction heads need two layers, and much longer training than the loss needs to fall.

    Args:
        model: A model with attentions that offer ``weights``.
        length: Number of random ids; by default 24, or half of ``block_size`` if that is less.
        batch_size: Number of random sequences.
        seed: Decides the ids.

    Raises:
        ConfigError: If a number is out of range, ``length`` is over half of ``block_size``, or no attention offers
            ``weights``.
        InputTypeError: If ``model`` is not a language model.

    Example:
        >>> from tinygpt.views import head_scores
        >>> model = GPTConfig.modern(vocab_size=65, block_size=16, n_layer=2, n_head=2, n_embd=16).build(seed=0)
        >>> round(head_scores(model).even[0], 3)
        0.159

    Source:
        Olsson et al., *In-context Learning and Induction Heads*, 2022, "prefix matching score".
        https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads/index.html
    """
    check_model("model", model)
    longest = None if model.block_size is None else model.block_size // 2
    if length is None:
        length = _LENGTH if longest is None else min(_LENGTH, max(2, longest))
    if longest is not None and longest < 2:
        raise ConfigError(f"the model must read at least 4 positions, got block_size={model.block_size}")
    check_integer("length", length, minimum=2, maximum=longest)
    check_integer("batch_size", batch_size, minimum=1)
    attentions = attentions_of(model)
    if not attentions:
        raise ConfigError(
            f"the model must have an attention that offers weights, got none in {type(model).__name__}; give yours a "
            "method weights(x) that returns B H T T"
        )
    # random ids, twice
    draws = uniforms(derive_seed(check_seed(seed), "heads", 0), np.arange(batch_size * length))
    ids = torch.from_numpy((draws * model.vocab_size).astype(np.int64)).view(batch_size, length)
    with evaluating(model), watching(attentions, weigh) as weights:
        model.compute_logits(ids.repeat(1, 2).to(model.device))
    # mean weights one position back, and on the position after the copy
    previous, induction = {}, {}
    for name, heads in heads_by_name(weights, 2 * length).items():
        one_back, after_copy = (heads.cpu().double().diagonal(back, 2, 3) for back in (-1, 1 - length))
        previous[name] = one_back.mean(dim=(0, 2)).numpy()
        induction[name] = after_copy[..., 1:].mean(dim=(0, 2)).numpy()
    if not previous:
        raise ConfigError("the weights of an attention must be B H T T or B T T, got none of these shapes")
    even = [float(np.mean(1 / np.arange(first, 2 * length + 1))) for first in (2, length + 1)]
    return HeadScores(previous, induction, (even[0], even[1]))
