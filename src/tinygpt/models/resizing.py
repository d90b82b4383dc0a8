"""Models of another size with the weights of a trained one."""

from typing import overload

import torch
from torch import Tensor

from tinygpt.errors import ConfigError, InputTypeError, check_integer, checked_names
from tinygpt.layers.linear import skip_init
from tinygpt.models.base import LanguageModel
from tinygpt.models.bigram import BigramLanguageModel
from tinygpt.models.config import GPTConfig
from tinygpt.models.gpt import GPTLanguageModel
from tinygpt.models.inspection import check_floating, check_model, config_of


@overload
def resized(
    model: GPTLanguageModel, *, vocab_size: int | None = None, block_size: int | None = None
) -> GPTLanguageModel: ...


@overload
def resized(
    model: BigramLanguageModel, *, vocab_size: int | None = None, block_size: int | None = None
) -> BigramLanguageModel: ...


@overload
def resized(model: LanguageModel, *, vocab_size: int | None = None, block_size: int | None = None) -> LanguageModel: ...


@checked_names
def resized(model: LanguageModel, *, vocab_size: int | None = None, block_size: int | None = None) -> LanguageModel:
    """Return a copy of a model for more ids, or for a window of another length.

    The weights stay as they were, so the logits of the old ids do too. Each new id starts as the mean of the old ones.
    Together with ``CharTokenizer.extended`` this prepares a model for a text with new symbols.

    Args:
        model: A model that a :class:`GPTConfig` built, or a bigram. It does not change.
        vocab_size: Number of ids ``V``, at least as many as the model has; by default the same.
        block_size: Longest input ``T``; by default the same. Learned positions can only become fewer.

    Returns:
        The new model, on the same device and in the same dtype and mode. Its ``config`` has the new sizes.

    Raises:
        ConfigError: If a number is out of range, or the model has no ``block_size``.
        InputTypeError: If the model was composed or changed by hand, or is quantised.

    Example:
        >>> model = GPTConfig(vocab_size=5, block_size=8, n_layer=1, n_head=1, n_embd=4, layout="gpt2").build()
        >>> larger = resized(model, vocab_size=7, block_size=6)
        >>> larger.config.vocab_size, larger.config.block_size
        (7, 6)
        >>> torch.equal(larger.token_embedding.weight[:5], model.token_embedding.weight)
        True
    """
    check_model("model", model)
    check_floating("model", model, "resized")
    settings = config_of(model)
    if settings is None:
        raise InputTypeError(
            f"model must be a bigram or built from a GPTConfig, got a {type(model).__name__} composed or changed by "
            "hand; build it with the new sizes and copy the weights"
        )
    # check the sizes
    if vocab_size is not None:
        settings["vocab_size"] = check_integer("vocab_size", vocab_size, minimum=model.vocab_size)
    if block_size is not None:
        if model.block_size is None:
            raise ConfigError(f"block_size must be None for a model that reads any length, got block_size={block_size}")
        settings["block_size"] = check_integer("block_size", block_size, minimum=1)
        if isinstance(model, GPTLanguageModel) and model.positions is not None and block_size > model.block_size:
            raise ConfigError(
                f"block_size must be at most {model.block_size}, the number of learned positions, got "
                f"block_size={block_size}; build a larger model, or use layout='modern', which learns no positions"
            )
    # build the model without initial weights, and fit the old weights to its shapes
    with skip_init():
        is_bigram = isinstance(model, BigramLanguageModel)
        other = BigramLanguageModel(**settings) if is_bigram else GPTConfig.from_dict(settings).build()
    other = other.to(next(model.parameters()))  # device and dtype
    fitted = {name: _fit(model.state_dict()[name], tensor.shape) for name, tensor in other.state_dict().items()}
    other.load_state_dict(fitted)
    if model.trained_symbols is not None:
        new = other.vocab_size - len(model.trained_symbols)
        other.trained_symbols = (*model.trained_symbols, *[None] * new)
    return other.train(model.training)


def _fit(weights: Tensor, shape: torch.Size) -> Tensor:
    """Cut off the end of each dimension that is too long, and continue a shorter one by its mean."""
    for dim, size in enumerate(shape):
        missing = size - weights.shape[dim]
        mean = weights.mean(dim, keepdim=True) if missing > 0 else weights
        weights = weights.narrow(dim, 0, size) if missing <= 0 else torch.cat([weights, *[mean] * missing], dim)
    return weights
