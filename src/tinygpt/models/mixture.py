"""A mixture of language models: the weighted mean of their log-probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import ConfigError, DataError, InputTypeError, check_number, checked_names, short
from tinygpt.ids import as_integers, first_outside
from tinygpt.models.base import WINDOW, LanguageModel
from tinygpt.models.modes import evaluating
from tinygpt.models.ngram import NGramLanguageModel

_COUNTED = 0.995  # a share of known n-grams that only a counted text reaches
_SHORTEST_CHECKED = 4  # an order below which almost every n-gram of any text is known
_MOST_FITTED = 1 << 16  # positions


class MixtureLanguageModel(LanguageModel):
    """The weighted mean of the log-probabilities of several models, renormalised.

    A GPT and a table of n-grams miss different things, so their mixture is often better than both. All models must have
    the same ids. The mixture reads as far as the one that reads the least.

    Args:
        models: The models. They become parts of the mixture and are not copied.
        weights: A weight of at least 0 for each, which sum to 1; by default equal ones. 0.4 for a small GPT and 0.6 for
            a table of n-grams suit a corpus of a million characters. :meth:`fit_weights` finds others.

    Attributes:
        weights: The weights, one for each model.

    Raises:
        ConfigError: If the weights do not fit, or the models have different ids.
        InputTypeError: If ``models`` is not a sequence of language models.

    Example:
        >>> ids = CharTokenizer("abc").encode("abcabcabcab")
        >>> table = NGramLanguageModel.count(ids, vocab_size=3, order=3)
        >>> mixture = MixtureLanguageModel([BigramLanguageModel(3), table], weights=[0.4, 0.6])
        >>> round(mixture(torch.tensor([[0, 1]])).logits.exp().sum().item(), 3)
        2.0

    Source:
        Klakow, *Log-linear interpolation of language models*, 1998. https://www.isca-archive.org/icslp_1998/
    """

    @checked_names
    def __init__(self, models: Sequence[LanguageModel], *, weights: Sequence[float] | None = None) -> None:
        known = list(models) if isinstance(models, Sequence | nn.ModuleList) else []
        if not known or not all(isinstance(model, LanguageModel) for model in known):
            raise InputTypeError(f"models must be a list of language models, got {short(models)}; use [model, ...]")
        sizes = [model.vocab_size for model in known]
        if len(set(sizes)) > 1:
            raise ConfigError(f"the models of a mixture must have the same ids, got vocab_size={sizes}")
        symbols = {model.trained_symbols for model in known} - {None}
        if len(symbols) > 1:
            raise ConfigError("the models of a mixture must have been trained with the same symbols, got others")
        lengths = [model.block_size for model in known if model.block_size is not None]
        super().__init__(sizes[0], block_size=min(lengths, default=None))
        self.models: Any = nn.ModuleList(known)
        self.weights = _checked_weights(weights, len(known))
        self.trained_symbols = next(iter(symbols), None)

    def compute_logits(self, idx: Int[Tensor, "B T"], cache: Any = None) -> Float[Tensor, "B T V"]:
        """Return the log-probabilities after each id."""
        caches = [None] * len(self.models) if cache is None else cache
        mean: Any = 0.0
        for model, weight, own in zip(self.models, self.weights, caches, strict=True):
            mean = mean + weight * model.compute_logits(idx, cache=own).log_softmax(dim=-1)
        logits: Tensor = mean.log_softmax(dim=-1)
        return logits

    def new_cache(self, batch_size: int) -> list[Any] | None:
        """Return a cache for each model, or None if one of them offers none."""
        caches = [model.new_cache(batch_size) for model in self.models]
        return None if any(cache is None for cache in caches) else caches

    def fit_weights(self, ids: Any) -> tuple[float, ...]:
        """Set the weights to the best ones for some held-out ids, and return them.

        The ids must be unknown to all models: the table of n-grams must not have counted them, and the others should
        not have trained on them. Take them from the start or the middle of the training split, before counting. Its end
        is next to the validation split, and often of the same play or chapter.

        Args:
            ids: The held-out ids; the first 65,536 are used.

        Returns:
            The weights.

        Raises:
            DataError: If there are too few ids, if a table has counted them, or an id is not in ``range(vocab_size)``.
            InputTypeError: If ``ids`` are not integers.
        """
        ids = as_integers(ids)[:_MOST_FITTED]
        if (outside := first_outside(ids, self.vocab_size)) is not None:
            raise DataError(
                f"ids must be in range(vocab_size={self.vocab_size}), got {ids[outside]} at position {outside}"
            )
        longest = max([2, *(model.order for model in self._tables())])
        if len(ids) < 2 * longest:
            raise DataError(f"ids must be at least {2 * longest} to fit weights to, got {len(ids)}")
        if any(model.order >= _SHORTEST_CHECKED and model.knows(ids) > _COUNTED for model in self._tables()):
            raise DataError(
                "ids must be held out to fit weights to them, got a text that an n-gram model has counted; count the "
                "rest of the corpus alone"
            )
        # the log-probabilities of all ids by each model
        known: list[Tensor] = []
        size = min(self.block_size or WINDOW, len(ids) - 1)
        count = (len(ids) - 1) // size * size
        idx = torch.from_numpy(ids[: count + 1].astype(np.int64)).to(self.device)
        with evaluating(self):
            for model in self.models:
                windows = [model.compute_logits(window[None])[0] for window in idx[:-1].split(size)]
                known.append(torch.cat(windows).cpu().double().log_softmax(dim=-1))
        self.weights = _best_weights(torch.stack(known), idx[1:].cpu())
        return self.weights

    def _tables(self) -> list[NGramLanguageModel]:
        return [model for model in self.models if isinstance(model, NGramLanguageModel)]

    def num_parameters(self, *, trainable_only: bool = False) -> int:
        """Return the number of parameters of all models."""
        return sum(model.num_parameters(trainable_only=trainable_only) for model in self.models)

    def extra_repr(self) -> str:
        """Show the weights in ``repr``."""
        return f"{super().extra_repr()}, weights={tuple(round(weight, 3) for weight in self.weights)}"


def _checked_weights(weights: Any, count: int) -> tuple[float, ...]:
    """Return a weight for each model."""
    if weights is None:
        return (1 / count,) * count
    if not isinstance(weights, Sequence) or isinstance(weights, str) or len(weights) != count:
        raise ConfigError(f"weights must be {count} numbers, one for each model, got {short(weights)}")
    for weight in weights:
        check_number("weights", weight, "of at least 0", lambda number: number >= 0)
    if abs(sum(weights) - 1) > 1e-6:
        raise ConfigError(f"weights must sum to 1, got {short(weights)}, which sum to {sum(weights):.6g}")
    return tuple(map(float, weights))


def _best_weights(known: Float64[Tensor, "M N V"], targets: Int64[Tensor, " N"]) -> tuple[float, ...]:
    """Return the weights with the least loss, which is convex in them."""
    z = torch.zeros(len(known), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = torch.einsum("m,mnv->nv", z.softmax(dim=0), known)
        value = F.cross_entropy(mean, targets)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return tuple(z.detach().softmax(dim=0).tolist())
