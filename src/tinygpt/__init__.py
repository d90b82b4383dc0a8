"""Small GPT language models, as parts that compose.

A character enters as text and passes each of these rooms once, in one direction:

===============  ====================================================================================
``tokenizer``    text to ids and back: :class:`CharTokenizer`, or any :class:`~tokenizer.Tokenizer`
``symbols``      two other tokenizers, of symbols of several characters and of bytes
``corpora``      texts to train on: :func:`shakespeare`, :func:`tinyshakespeare`, :func:`read_text`
``texts``        many texts: :func:`read_texts` of a folder, a table, or lines of JSON
``data``         ids as windows: :class:`TokenDataset`
``preparing``    a corpus larger than memory: :func:`prepare`
``layers``       the building blocks: ``Head``, ``MultiHeadAttention``, ``FeedForward``, ``DecoderBlock``
``models``       :class:`GPTLanguageModel` and its :class:`GPTConfig`, :class:`BigramLanguageModel`,
                 :class:`NGramLanguageModel`, :class:`MixtureLanguageModel`; :func:`quantised` for int8 weights
``optim``        Muon, AdamW and parameter groups
``schedules``    learning-rate schedules
``checkpoint``   one file that contains a model: :func:`save`, :func:`load`
``sampling``     text from a model: :class:`Sampler`
``views``        how a model reads a text: surprise, attention, the logit lens
``training``     :func:`train` a text file in one call, after :func:`advise`; :class:`Trainer` and its
                 :class:`TrainerConfig`, :func:`evaluate`, :func:`compare`
``interop``      models and tokenizers of other programs, in and out
``serve``        a page in the browser that writes with a model and looks inside it
``testing``      property checks for parts of your own
===============  ====================================================================================

The names above are imported from ``tinygpt`` itself, the building blocks from ``tinygpt.layers``. A room is imported at
its first use. Nothing else happens at import: no download, no output, no global setting.
"""

from typing import TYPE_CHECKING

from tinygpt.lazy import lazy_names

if TYPE_CHECKING:
    from tinygpt.checkpoint import load, save
    from tinygpt.corpora import read_text, shakespeare, tinyshakespeare
    from tinygpt.data import TokenDataset
    from tinygpt.models import (
        BigramLanguageModel,
        GPTConfig,
        GPTLanguageModel,
        LanguageModel,
        MixtureLanguageModel,
        NGramLanguageModel,
        quantised,
    )
    from tinygpt.preparing import prepare
    from tinygpt.sampling import Sampler
    from tinygpt.texts import read_texts
    from tinygpt.tokenizer import CharTokenizer
    from tinygpt.training import Trainer, TrainerConfig, advise, compare, evaluate, plan, train

__version__ = "0.1.0"

__all__ = [
    "BigramLanguageModel",
    "CharTokenizer",
    "GPTConfig",
    "GPTLanguageModel",
    "LanguageModel",
    "MixtureLanguageModel",
    "NGramLanguageModel",
    "Sampler",
    "TokenDataset",
    "Trainer",
    "TrainerConfig",
    "advise",
    "compare",
    "evaluate",
    "load",
    "plan",
    "prepare",
    "quantised",
    "read_text",
    "read_texts",
    "save",
    "shakespeare",
    "tinyshakespeare",
    "train",
]

if not TYPE_CHECKING:  # a type checker should report unknown names
    __getattr__, __dir__ = lazy_names(
        __name__,
        checkpoint=["load", "save"],
        corpora=["read_text", "shakespeare", "tinyshakespeare"],
        data=["TokenDataset"],
        errors=[],
        interop=[],
        layers=[],
        models=[
            "BigramLanguageModel",
            "GPTConfig",
            "GPTLanguageModel",
            "LanguageModel",
            "MixtureLanguageModel",
            "NGramLanguageModel",
            "quantised",
        ],
        optim=[],
        preparing=["prepare"],
        randomness=[],
        sampling=["Sampler"],
        schedules=[],
        serve=[],
        symbols=[],
        testing=[],
        texts=["read_texts"],
        tokenizer=["CharTokenizer"],
        training=["Trainer", "TrainerConfig", "advise", "compare", "evaluate", "plan", "train"],
        views=[],
    )
