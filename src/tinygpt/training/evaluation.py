"""The loss of any language model on any data, without a trainer."""

import math

import torch

from tinygpt.data import TokenDataset
from tinygpt.errors import ConfigError, DataError, InputTypeError, NonFiniteError, check_integer, checked_names, short
from tinygpt.models import LanguageModel
from tinygpt.models.base import WINDOW
from tinygpt.models.inspection import check_model
from tinygpt.tokenizer import CharTokenizer, check_trained_with
from tinygpt.training.history import Loss
from tinygpt.training.step import Objective


@checked_names
def evaluate(
    model: LanguageModel,
    data: TokenDataset | str,
    *,
    split: str = "val",
    block_size: int | None = None,
    batch_size: int = 64,
) -> Loss:
    """Measure the loss of a model on a split of a dataset, or on a text.

    Every token but the first is predicted once, in consecutive windows, in evaluation mode. Nothing is random, and the
    model keeps its mode. A model without parameters can be measured too.

    Args:
        model: Any language model, on any device.
        data: A dataset, or a text for a model that was trained with a :class:`CharTokenizer`.
        split: ``"train"`` or ``"val"``; a text is measured whole.
        block_size: Length of the windows; by default the model's ``block_size``.
        batch_size: Number of windows at once.

    Returns:
        The loss in nats per token, in bits per character, and as perplexity.

    Raises:
        ConfigError: If the data has more ids than the model, or a text is given and the model's symbols are unknown.
        DataError: If the split or the text has fewer than two tokens.
        InputTypeError: If an argument has the wrong type.
        NonFiniteError: If the loss is NaN or infinite.
        TokenizerError: If the model was trained with other symbols, or the text has a character that is not among them.

    Example:
        >>> data = TokenDataset("to be, or not to be: " * 20)
        >>> model = BigramLanguageModel(data.vocab_size)
        >>> evaluate(model, data).nats > 0
        True
    """
    check_model("model", model)
    is_text = isinstance(data, str)
    if isinstance(data, str):
        data, split = TokenDataset(data, _tokenizer_of(model), val_fraction=0), "train"
    if not isinstance(data, TokenDataset):
        raise InputTypeError(f"data must be a TokenDataset or a text, got {short(data)}; use TokenDataset(ids)")
    if data.vocab_size > model.vocab_size:
        raise ConfigError(
            f"the data must have at most the ids of the model, got vocab_size={data.vocab_size} in the data and "
            f"{model.vocab_size} in the model"
        )
    if data.tokenizer is not None:
        check_trained_with(model, data.tokenizer)
    needed = 1 + (1 if block_size is None else check_integer("block_size", block_size, minimum=1))
    if is_text and len(data.train) < needed:
        way = "pass a longer text" if block_size is None else "pass a longer text or a lower block_size"
        raise DataError(f"a text must have at least {needed} tokens to be measured, got {len(data.train)}; {way}")
    longest = min(model.block_size or WINDOW, len(data.split(split)) - 1)
    size = longest if block_size is None else block_size
    objective = Objective(model, model.device, torch.float32)
    nats = objective.mean(data.windows(split, batch_size=batch_size, block_size=size))
    if not math.isfinite(nats):
        raise NonFiniteError(f"the loss must be finite, got {nats} on {short(data)}; check the weights of the model")
    return Loss.from_nats(nats, data.characters_per_id(split))


def _tokenizer_of(model: LanguageModel) -> CharTokenizer:
    """Return the tokenizer of the characters that a model was trained with."""
    symbols = model.trained_symbols
    if symbols is None or not all(symbol is not None and len(symbol) == 1 for symbol in symbols):
        raise ConfigError(
            "a text can be measured for a model that was trained with a CharTokenizer, got one whose characters are "
            "unknown; use TokenDataset(text, tokenizer)"
        )
    return CharTokenizer([symbol for symbol in symbols if symbol is not None])
