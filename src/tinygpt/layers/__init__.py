"""The building blocks: each maps a residual stream ``B T C`` to another ``B T C``, and works without the others."""

from tinygpt.layers.attention import Head, MultiHeadAttention
from tinygpt.layers.block import DecoderBlock
from tinygpt.layers.cache import Chain, KVCache, call_with_cache, new_cache
from tinygpt.layers.convolution import ShortConvolution
from tinygpt.layers.feed_forward import FeedForward, relu_squared
from tinygpt.layers.linear import Embedding, Linear
from tinygpt.layers.normalisation import RMSNorm
from tinygpt.layers.positions import LearnedPositions, RotaryPositions
from tinygpt.layers.quantised import QuantisedEmbedding, QuantisedLinear

__all__ = [
    "Chain",
    "DecoderBlock",
    "Embedding",
    "FeedForward",
    "Head",
    "KVCache",
    "LearnedPositions",
    "Linear",
    "MultiHeadAttention",
    "QuantisedEmbedding",
    "QuantisedLinear",
    "RMSNorm",
    "RotaryPositions",
    "ShortConvolution",
    "call_with_cache",
    "new_cache",
    "relu_squared",
]
