"""Small GPT language models, as parts that compose.

A character enters as text and passes each of these rooms once, in one direction:

===============  ====================================================================================
``tokenizer``    text to ids and back: :class:`CharTokenizer`, or any :class:`~tokenizer.Tokenizer`
``corpora``      texts to train on: :func:`shakespeare`, :func:`tinyshakespeare`, :func:`read_text`
``data``         ids as windows: :class:`TokenDataset`
``layers``       the building blocks: ``Head``, ``MultiHeadAttention``, ``FeedForward``, ``DecoderBlock``
``models``       :class:`BigramLanguageModel`, :class:`GPTLanguageModel` and its :class:`GPTConfig`
``optim``        Muon, AdamW and parameter groups
``schedules``    learning-rate schedules
``checkpoint``   one file that contains a model: :func:`save`, :func:`load`
``sampling``     text from a model: :class:`Sampler`
``training``     :class:`Trainer` and its :class:`TrainerConfig`, :func:`evaluate`, :func:`compare`
``testing``      property checks for parts of your own
===============  ====================================================================================

The names above are imported from ``tinygpt`` itself, the building blocks from ``tinygpt.layers``. A room is imported at
its first use. Nothing else happens at import: no download, no output, no global setting.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.checkpoint import load, save
    from tinygpt.corpora import read_text, shakespeare, tinyshakespeare
    from tinygpt.data import TokenDataset
    from tinygpt.models import BigramLanguageModel, GPTConfig, GPTLanguageModel, LanguageModel
    from tinygpt.sampling import Sampler
    from tinygpt.tokenizer import CharTokenizer
    from tinygpt.training import Trainer, TrainerConfig, compare, evaluate

__version__ = "0.1.0"

__all__ = [
    "BigramLanguageModel",
    "CharTokenizer",
    "GPTConfig",
    "GPTLanguageModel",
    "LanguageModel",
    "Sampler",
    "TokenDataset",
    "Trainer",
    "TrainerConfig",
    "compare",
    "evaluate",
    "load",
    "read_text",
    "save",
    "shakespeare",
    "tinyshakespeare",
]

_ROOMS = {
    "checkpoint": ("load", "save"),
    "corpora": ("read_text", "shakespeare", "tinyshakespeare"),
    "data": ("TokenDataset",),
    "errors": (),
    "layers": (),
    "models": ("BigramLanguageModel", "GPTConfig", "GPTLanguageModel", "LanguageModel"),
    "optim": (),
    "randomness": (),
    "sampling": ("Sampler",),
    "schedules": (),
    "testing": (),
    "tokenizer": ("CharTokenizer",),
    "training": ("Trainer", "TrainerConfig", "compare", "evaluate"),
}


if not TYPE_CHECKING:  # a type checker should report unknown names

    def __getattr__(name: str) -> Any:
        """Import the room of a public name, or the room itself, at its first use."""
        for room, names in _ROOMS.items():
            if name == room or name in names:
                module = import_module(f"tinygpt.{room}")
                found = module if name == room else getattr(module, name)
                globals()[name] = found
                return found
        raise AttributeError(f"module 'tinygpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
