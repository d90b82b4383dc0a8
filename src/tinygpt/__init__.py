"""Small GPT language models, as parts that compose.

A character enters as text and passes each of these once, in one direction:

===============  ====================================================================================
``tokenizer``    text to ids and back: :class:`CharTokenizer`, or anything that is a :class:`Tokenizer`
``corpora``      texts to train on: :func:`shakespeare`, :func:`tinyshakespeare`, :func:`read_text`
``data``         ids as windows: :class:`TokenDataset`
``layers``       :class:`Head`, :class:`MultiHeadAttention`, :class:`FeedForward`, :class:`DecoderBlock`
``models``       :class:`BigramLanguageModel`, :class:`GPTLanguageModel`, and what they share
``optim``        which weights decay, and how fast they move
``checkpoint``   one file that holds a model: :func:`~tinygpt.checkpoint.save`, :func:`load`
``sampling``     ids drawn from logits: :class:`Sampler`
``training``     :class:`Trainer`, and :func:`compare` for several models
``testing``      checks for parts of your own; not imported with the rest
===============  ====================================================================================

Below them all are ``errors``, ``files``, ``encodings``, ``randomness`` and ``runtime``. Nothing happens at import: no
download, no output, no global setting.
"""

from tinygpt.checkpoint import load, save
from tinygpt.corpora import read_text, shakespeare, tinyshakespeare
from tinygpt.data import Batch, TokenDataset
from tinygpt.layers import (
    Chain,
    DecoderBlock,
    Embedding,
    FeedForward,
    Head,
    KVCache,
    LearnedPositions,
    Linear,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    ShortConvolution,
    SoftCap,
)
from tinygpt.models import BigramLanguageModel, GPTConfig, GPTLanguageModel, LanguageModel, ModelOutput
from tinygpt.sampling import Sampler
from tinygpt.tokenizer import CharTokenizer, Tokenizer
from tinygpt.training import Comparison, Evaluation, History, Loss, Step, Trainer, TrainerConfig, compare

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BigramLanguageModel",
    "Chain",
    "CharTokenizer",
    "Comparison",
    "DecoderBlock",
    "Embedding",
    "Evaluation",
    "FeedForward",
    "GPTConfig",
    "GPTLanguageModel",
    "Head",
    "History",
    "KVCache",
    "LanguageModel",
    "LearnedPositions",
    "Linear",
    "Loss",
    "ModelOutput",
    "MultiHeadAttention",
    "RMSNorm",
    "RotaryPositions",
    "Sampler",
    "ShortConvolution",
    "SoftCap",
    "Step",
    "TokenDataset",
    "Tokenizer",
    "Trainer",
    "TrainerConfig",
    "compare",
    "load",
    "read_text",
    "save",
    "shakespeare",
    "tinyshakespeare",
]
