"""The building blocks: each maps a stream of shape ``B T C`` to one of the same shape, and stands by itself."""

from tinygpt.layers.attention import Head, MultiHeadAttention
from tinygpt.layers.block import DecoderBlock
from tinygpt.layers.cache import Chain, KVCache
from tinygpt.layers.convolution import ShortConvolution
from tinygpt.layers.feed_forward import FeedForward, relu_squared
from tinygpt.layers.linear import Embedding, Linear
from tinygpt.layers.normalisation import RMSNorm, SoftCap
from tinygpt.layers.positions import LearnedPositions, RotaryPositions

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
    "RMSNorm",
    "RotaryPositions",
    "ShortConvolution",
    "SoftCap",
    "relu_squared",
]
