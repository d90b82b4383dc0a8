"""The baseline: what can be known from the last id alone."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinygpt.errors import checked_names
from tinygpt.layers.linear import Embedding
from tinygpt.models.base import LanguageModel


class BigramLanguageModel(LanguageModel):
    """A table whose row is the last id and whose entries are the logits of the next.

    It can learn how often one symbol follows another and nothing else, so its best loss is the text's conditional
    entropy, which a better model must beat.

    Args:
        vocab_size: Number of distinct ids ``V``; the table is ``V V``.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> BigramLanguageModel(vocab_size=65).num_parameters()
        4225
    """

    @checked_names
    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.table = Embedding(vocab_size, vocab_size, std=1.0)

    def compute_logits(self, idx: Int[Tensor, "B T"], cache: Any = None) -> Float[Tensor, "B T V"]:
        """Read the row of each id."""
        logits: torch.Tensor = self.table(idx)
        return logits

    def new_cache(self, batch_size: int) -> tuple[()]:
        """Return an empty cache, which stays empty: nothing before the last token counts."""
        return ()
