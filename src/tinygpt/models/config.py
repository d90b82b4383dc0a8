"""The settings of a GPT: plain numbers and words, checked when the config is made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload

from tinygpt.errors import (
    ConfigError,
    InputTypeError,
    check_choice,
    check_dropout,
    check_head_size,
    check_integer,
    checked_names,
    short,
)

if TYPE_CHECKING:
    from tinygpt.models.gpt import GPTLanguageModel

Model = TypeVar("Model")

Layout = Literal["notebook", "gpt2", "nanogpt", "modern"]
LAYOUTS = get_args(Layout)
_MOST_PARAMETERS = 10**11  # 400 GB in float32; a larger model is a mistyped size


@checked_names
@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The sizes of a GPT and the layout of its parts.

    The defaults are those of the notebook's model.

    Attributes:
        vocab_size: Number of distinct ids ``V``.
        block_size: Longest input ``T``.
        n_layer: Number of blocks.
        n_head: Number of heads ``H`` in each; must divide ``n_embd``.
        n_embd: Width ``C`` of the residual stream.
        dropout: Probability of dropping a value, in training mode only.
        layout: ``"notebook"``: learned positions, LayerNorm, ReLU, no biases on queries, keys and values, dropout only
            in attention.
            ``"gpt2"``: learned positions, LayerNorm, GELU by its tanh approximation, biases everywhere, LM head tied to
            the embedding.
            ``"nanogpt"``: the same with the exact GELU, as in nanoGPT.
            ``"modern"``: a causal convolution after the embedding, rotary positions, RMSNorm without gains (on queries
            and keys too), ReLU², no biases. For any other combination pass the parts to :class:`GPTLanguageModel`.

    Raises:
        ConfigError: If a name is unknown, a value is out of range, or ``n_head`` does not divide ``n_embd``.

    Example:
        >>> GPTConfig(vocab_size=65)
        GPTConfig(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.2, layout='notebook')
        >>> GPTConfig(vocab_size=65, n_heads=4)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: GPTConfig has no argument 'n_heads'; did you mean 'n_head'?
    """

    vocab_size: int
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    dropout: float = 0.2
    layout: Layout = "notebook"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            value = check_integer(name, getattr(self, name), minimum=1)
            object.__setattr__(self, name, value)  # plain integers, for JSON
        object.__setattr__(self, "dropout", check_dropout(self.dropout))
        check_choice("layout", self.layout, LAYOUTS)
        if check_head_size(self.n_embd, self.n_head) % 2 and self.layout == "modern":
            raise ConfigError(
                f"n_embd / n_head must be even for rotary positions, got n_embd={self.n_embd} and n_head={self.n_head}"
            )
        count = 12 * self.n_layer * self.n_embd**2 + (2 * self.vocab_size + self.block_size) * self.n_embd
        if count > _MOST_PARAMETERS:
            raise ConfigError(
                f"the model must have at most {_MOST_PARAMETERS:.0e} parameters, got about {count:.1e} from "
                f"n_layer={self.n_layer}, n_embd={self.n_embd}, vocab_size={self.vocab_size}, "
                f"block_size={self.block_size}; use smaller ones"
            )

    @classmethod
    def gpt2(cls, **changes: Any) -> "GPTConfig":
        """Return the config of GPT-2's smallest model, with changes.

        It has 124 million parameters.

        Source:
            Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019, table 2.
        """
        sizes: dict[str, Any] = {
            "vocab_size": 50257,
            "block_size": 1024,
            "n_layer": 12,
            "n_head": 12,
            "n_embd": 768,
            "dropout": 0.1,
        }
        return cls(**sizes | {"layout": "gpt2"} | changes)

    @classmethod
    def modern(cls, **changes: Any) -> "GPTConfig":
        """Return a config of the modern layout, without dropout, with changes."""
        return cls(**dict[str, Any](dropout=0.0, layout="modern") | changes)

    @overload
    def build(self, model_class: None = None, *, seed: int | None = None, **arguments: Any) -> "GPTLanguageModel": ...

    @overload
    def build(self, model_class: type[Model], *, seed: int | None = None, **arguments: Any) -> Model: ...

    def build(self, model_class: Any = None, *, seed: int | None = None, **arguments: Any) -> Any:
        """Build the model that this config describes.

        Args:
            model_class: A subclass of :class:`GPTLanguageModel` to build instead. It is called with ``vocab_size``,
                ``block_size``, ``n_embd`` and the parts, all by name.
            seed: Makes the initial weights reproducible, equal to those after ``torch.manual_seed(seed)``. PyTorch's
                generator is restored. Without a seed they are drawn from PyTorch's generator.
            arguments: Further arguments of a subclass, or parts that replace those of the layout.

        Raises:
            ConfigError: If the seed is out of range.
            InputTypeError: If the class is not a :class:`GPTLanguageModel`, or does not take these arguments.

        Example:
            >>> GPTConfig(vocab_size=137).build(seed=0).num_parameters()
            10844297
        """
        from tinygpt.models.gpt import GPTLanguageModel
        from tinygpt.models.layouts import build

        return build(self, GPTLanguageModel if model_class is None else model_class, seed, arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict of plain numbers and words."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "GPTConfig":
        """Return the config of a dict from :meth:`to_dict`.

        Raises:
            ConfigError: If a name is unknown or a value is out of range.
            InputTypeError: If ``settings`` is not a mapping of settings by name.
        """
        if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
            raise InputTypeError(f"settings must be a dict of settings by name, got {short(settings)}")
        return cls(**settings)
