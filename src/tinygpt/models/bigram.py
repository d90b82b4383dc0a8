"""The bigram: a baseline that reads only the last token."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from tinygpt.errors import checked_names
from tinygpt.layers.linear import Embedding
from tinygpt.models.base import LanguageModel


class BigramLanguageModel(LanguageModel):
    """A table of logits: one row for each last token.

    It learns how often one token follows another and nothing else. Its best loss is the conditional entropy of the
    text, in nats per token, which a better model must beat. It reads inputs of any length.

    Args:
        vocab_size: Number of distinct ids ``V``; the table is ``V V``.

    Raises:
        ConfigError: If ``vocab_size`` is not a positive integer.

    Example:
        >>> BigramLanguageModel(vocab_size=65).num_parameters()
        4225
    """

    @checked_names
    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.table = Embedding(vocab_size, vocab_size, std=1.0)

    def compute_logits(self, idx: Int[Tensor, "B T"], cache: Any = None) -> Float[Tensor, "B T V"]:
        """Look up the row of each id."""
        logits: Tensor = self.table(idx)
        return logits

    def new_cache(self, batch_size: int) -> tuple[()]:
        """Return a cache without content: only the last token is read."""
        return ()
