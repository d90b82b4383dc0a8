"""Tell tables, matrices and gains apart by the layers that hold them.

A model can say more than its layers: see :meth:`tinygpt.LanguageModel.table_parameters`.
"""

from torch import nn

from tinygpt.layers.convolution import ShortConvolution

_TABLES = (nn.Embedding, nn.EmbeddingBag)
_MATRICES = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_NORMS = (nn.LayerNorm, nn.RMSNorm)  # the gains of LayerNorm((T, C)) have two dimensions
_KERNELS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    ShortConvolution,
)


def tables_in(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all embedding layers."""
    return _held_by(module, _TABLES)


def matrices_in(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all linear, attention and recurrent layers of PyTorch, and their subclasses."""
    return _held_by(module, _MATRICES)


def gains_in(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all norms."""
    return _held_by(module, _NORMS)


def unknown_in(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of two or more dimensions in layers of no known kind."""
    known = set(map(id, _held_by(module, (*_TABLES, *_MATRICES, *_NORMS, *_KERNELS))))
    return [parameter for parameter in module.parameters() if parameter.ndim >= 2 and id(parameter) not in known]


def _held_by(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Parameter]:
    """Return the parameters in the layers of these kinds, each once, including those of parametrizations."""
    parts = [part for part in module.modules() if isinstance(part, kinds)]
    return list({id(parameter): parameter for part in parts for parameter in part.parameters()}.values())
