"""Models with int8 weights."""

import copy
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from torch import Tensor, nn

from tinygpt.errors import InputTypeError, NonFiniteError
from tinygpt.layers.linear import Embedding, Linear
from tinygpt.layers.quantised import QuantisedEmbedding, QuantisedLinear, quantise_rows
from tinygpt.models.base import LanguageModel
from tinygpt.models.gpt import GPTLanguageModel
from tinygpt.models.inspection import check_floating, check_model, config_of, parts_of

Model = TypeVar("Model", bound=LanguageModel)
_KINDS = (Linear, nn.Linear, Embedding, nn.Embedding)
_BY_WEIGHT = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)  # read the weights of their layers directly


def quantised(model: Model) -> Model:
    """Return a copy of a model with int8 weights, for inference.

    The weights of linear layers and embeddings, nearly all of a model, become int8 with a scale for each row. The file
    is about a quarter as large as in float32, and the loss almost the same. Other parts stay as they are, such as norms
    and n-gram tables. The copy is saved, loaded, sampled from and evaluated like any other model. It cannot be trained.

    Args:
        model: A trained model, on any device. It does not change.

    Returns:
        The copy, in evaluation mode, with as many parameters. It computes in the dtype of the model's weights, or in
        float32 if they have 16 bits.

    Raises:
        InputTypeError: If ``model`` is not a language model, is quantised already, or has no such layers.
        NonFiniteError: If a weight is NaN or infinite.

    Example:
        >>> model = GPTConfig(vocab_size=65, block_size=8, n_layer=1, n_head=2, n_embd=32).build(seed=0)
        >>> small = quantised(model)
        >>> small.num_parameters() == model.num_parameters()
        True
        >>> idx = torch.tensor([[1, 2, 3]])
        >>> torch.allclose(small(idx).logits, model.eval()(idx).logits, atol=0.01)
        True
    """
    check_model("model", model)
    check_floating("model", model, "quantised")
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise NonFiniteError(f"weights must be finite to be quantised, got NaN or infinity in {name}")
    small = copy.deepcopy(model).eval()
    for part in small.modules():  # a CPU computes the rest faster in float32 than in 16 bits
        if any(parameter.itemsize < 4 for parameter in part.parameters(recurse=False)):
            part.float()
    if not quantise_layers(small, quantise_rows):
        raise InputTypeError(
            f"model must have linear layers or embeddings to be quantised, got {type(model).__name__} with neither; "
            "save it as it is"
        )
    return small


def quantise_layers(
    model: nn.Module, rows_of: Callable[[Tensor], tuple[Tensor, Tensor]], only: Collection[str] | None = None
) -> int:
    """Replace the linear layers and embeddings of a model, freeze it, and return the number of the new layers.

    Args:
        model: The model.
        rows_of: Returns the int8 rows and the scales of a matrix.
        only: Names of the matrices to replace, one for each that is tied to others; by default all.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    wanted = {id(weight) for name, weight in named.items() if only is None or name in only}
    described = [part for part in model.modules() if isinstance(part, GPTLanguageModel) and config_of(part) is not None]
    weights: dict[int, nn.Parameter] = {}  # by the old weight: tied ones stay tied
    layers: dict[int, nn.Module] = {}  # by the old layer, which may be used twice
    for parent in [part for part in model.modules() if not isinstance(part, _BY_WEIGHT)]:
        for name, old in dict[str, Any](parent._modules).items():
            if type(old) not in _KINDS or id(old.weight) not in wanted:
                continue
            if id(old) not in layers:
                new = _quantised_layer(old, *rows_of(old.weight))
                new.weight = weights.setdefault(id(old.weight), new.weight)
                layers[id(old)] = new.train(old.training)
            setattr(parent, name, layers[id(old)])
    # a model that its config described is still described by it
    for part in described:
        part.built_as = parts_of(part)
    model.requires_grad_(False)
    return len(layers)


def _quantised_layer(old: Any, rows: Tensor, scale: Tensor) -> QuantisedLinear | QuantisedEmbedding:
    if isinstance(old, nn.Linear):
        return QuantisedLinear(rows, scale, old.bias)
    return QuantisedEmbedding(rows, scale.to(old.weight.dtype))
