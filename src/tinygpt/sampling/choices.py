"""The choices of a model: which tokens it had to choose from, and how likely each one was."""

from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from tinygpt.tokenizer import Tokenizer, decode_alone


class Alternative(NamedTuple):
    """A token that could have been drawn.

    Attributes:
        id: Its id.
        text: The text of this id alone.
        log_probability: What the model gave it, in nats, before filters and temperature.
    """

    id: int
    text: str
    log_probability: float


class Choice(NamedTuple):
    """One token of a generated text, with its probabilities.

    Attributes:
        id: The id that was drawn.
        text: The text that is certain with it, as in ``Sampler.stream``.
        log_probability: What the model gave it, in nats, before filters and temperature, as in ``Sampler.score``.
        drawn_with: The probability with which it was drawn, after filters and temperature; 1 if greedy.
        alternatives: The most likely tokens by the model, the first one first.
    """

    id: int
    text: str
    log_probability: float
    drawn_with: float
    alternatives: tuple[Alternative, ...]


def choice_of(
    id: int, text: str, logits: Float64[Tensor, " V"], steered: Float64[Tensor, " V"], tokenizer: Tokenizer, top: int
) -> Choice:
    """Return a drawn token with the ``top`` most likely ones, of equal ones the lowest ids."""
    nats = logits.log_softmax(dim=-1)
    values, ids = nats.sort(descending=True, stable=True)
    alternatives = (
        Alternative(other, decode_alone(tokenizer, other), value)
        for other, value in zip(ids[:top].tolist(), values[:top].tolist(), strict=True)
    )
    return Choice(id, text, float(nats[id]), float(steered.softmax(dim=-1)[id]), tuple(alternatives))
