"""The GPT: an embedding, a stack of blocks and an LM head."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from tinygpt.errors import ConfigError, InputTypeError, check_integer, checked_names
from tinygpt.layers import LearnedPositions
from tinygpt.layers.block import check_part
from tinygpt.layers.cache import call_with_cache, looks_back, new_cache
from tinygpt.layers.linear import Embedding, Linear
from tinygpt.layers.roles import unknown_in
from tinygpt.models.base import LanguageModel
from tinygpt.models.config import GPTConfig


class GPTLanguageModel(LanguageModel):
    """A GPT of parts: embedding, positions, blocks, a norm and an LM head.

    :meth:`GPTConfig.build` builds one from sizes. Here the parts are passed in, and any module that maps ``B T C`` to
    ``B T C`` is a block.

    Args:
        vocab_size: Number of distinct ids ``V``.
        block_size: Longest input ``T``.
        n_embd: Width ``C`` of the residual stream.
        blocks: Distinct modules, applied in order. If each offers a cache, see
            :func:`~tinygpt.layers.new_cache`, sampling uses them.
        token_embedding: Maps ids ``B T`` to vectors ``B T C``; by default a learned table. It may offer a cache too.
        positions: Makes the module that adds positions, called with ``(block_size, n_embd=n_embd)``; None if the
            blocks take care of positions, as with :class:`~tinygpt.layers.RotaryPositions`.
        norm: Makes the last norm, called with ``n_embd``.
        head: The LM head, which maps ``B T C`` to ``B T V``; by default a linear layer with a bias.

    Shape:
        Ids ``B T`` in, logits ``B T V`` out, for ``T`` up to ``block_size``.

    Raises:
        ConfigError: If a number is out of range, a block appears twice, or a block has another ``n_embd``.
        InputTypeError: If a block is not a module.

    Example:
        >>> def make_block():
        ...     return DecoderBlock(32, attention=MultiHeadAttention(32, n_head=4), feed_forward=FeedForward(32))
        >>> model = GPTLanguageModel(65, block_size=16, n_embd=32, blocks=[make_block() for _ in range(2)])
        >>> logits, loss = model(torch.zeros(2, 10, dtype=torch.long))
        >>> logits.shape, loss
        (torch.Size([2, 10, 65]), None)

    Source:
        Radford et al., *Improving Language Understanding by Generative Pre-Training*, 2018, with norms before the
        parts as in GPT-2.
    """

    block_size: int

    @checked_names
    def __init__(
        self,
        vocab_size: int,
        *,
        block_size: int,
        n_embd: int,
        blocks: Iterable[nn.Module],
        token_embedding: nn.Module | None = None,
        positions: Callable[..., nn.Module] | None = LearnedPositions,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__(vocab_size, block_size=block_size)
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)
        self.config: GPTConfig | None = None  # the config that built this model, if it describes every part
        self.built_as: dict[str, str] = {}  # the parts as they were built
        self.token_embedding = Embedding(vocab_size, n_embd) if token_embedding is None else token_embedding
        self.positions = None if positions is None else positions(block_size, n_embd=n_embd)
        self.blocks = nn.ModuleList(_distinct_parts(blocks, n_embd))
        self.norm = norm(n_embd)
        self.head = Linear(n_embd, vocab_size) if head is None else head

    def compute_logits(self, idx: Int[Tensor, "B T"], cache: "GPTCache | None" = None) -> Float[Tensor, "B T V"]:
        """Return the logits of the token after each id; with a cache, ``idx`` continues the ids that it has read."""
        # embed the ids and add their positions
        x = call_with_cache(self.token_embedding, idx, None if cache is None else cache.embedding)
        if self.positions is not None:
            x = self.positions(x, 0 if cache is None else cache.length)
        # pass the residual stream through the blocks
        for layer, block in enumerate(self.blocks):
            x = call_with_cache(block, x, None if cache is None else cache.blocks[layer])
        if cache is not None:
            cache.length += idx.shape[1]
        # norm it and read out logits
        logits: Tensor = self.head(self.norm(x))
        return logits

    def new_cache(self, batch_size: int) -> "GPTCache | None":
        """Return an empty cache for ``block_size`` positions, or None if a part that needs one offers none."""
        embedding = new_cache(self.token_embedding, batch_size, self.block_size)
        caches = [new_cache(block, batch_size, self.block_size) for block in self.blocks]
        others = [part for part in (self.positions, self.norm, self.head) if part is not None]
        others += [self.token_embedding] if embedding is None else []
        lacking = any(cache is None for cache in caches) or any(map(looks_back, others))
        return None if lacking else GPTCache(caches, embedding)

    def table_parameters(self) -> list[nn.Parameter]:
        """Return all of ``token_embedding`` and ``positions``, and the embedding layers elsewhere."""
        parts = [self.token_embedding] if self.positions is None else [self.token_embedding, self.positions]
        return [*super().table_parameters(), *(parameter for part in parts for parameter in part.parameters())]

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Return the matrices of all layers, including bare parameters of ``blocks``."""
        return [*super().matrix_parameters(), *unknown_in(self.blocks)]


@dataclass
class GPTCache:
    """The caches of the blocks and of the embedding, and the number of ids that they have read."""

    blocks: list[Any]
    embedding: Any = None
    length: int = 0


def _distinct_parts(blocks: Iterable[nn.Module], n_embd: int) -> list[nn.Module]:
    if not isinstance(blocks, Iterable):
        raise InputTypeError(f"blocks must be a list of modules, got {type(blocks).__name__}; use [block]")
    parts = list(blocks)
    for layer, block in enumerate(parts):
        check_part(f"blocks[{layer}]", block, n_embd)
    if len(set(map(id, parts))) < len(parts):
        raise ConfigError(
            "blocks must be distinct modules, got the same one twice; build one for each layer, "
            f"e.g. [make_block() for _ in range({len(parts)})]"
        )
    return parts
