"""The language models: their base class, the bigram, n-grams, the GPT with its config, and mixtures."""

from typing import TYPE_CHECKING

from tinygpt.lazy import lazy_names

if TYPE_CHECKING:
    from tinygpt.models.base import LanguageModel, ModelOutput
    from tinygpt.models.bigram import BigramLanguageModel
    from tinygpt.models.config import GPTConfig
    from tinygpt.models.gpt import GPTLanguageModel
    from tinygpt.models.mixture import MixtureLanguageModel
    from tinygpt.models.ngram import NGramLanguageModel
    from tinygpt.models.quantising import quantised
    from tinygpt.models.resizing import resized

__all__ = [
    "BigramLanguageModel",
    "GPTConfig",
    "GPTLanguageModel",
    "LanguageModel",
    "MixtureLanguageModel",
    "ModelOutput",
    "NGramLanguageModel",
    "quantised",
    "resized",
]

if not TYPE_CHECKING:  # a type checker should report unknown names
    __getattr__, __dir__ = lazy_names(
        __name__,
        base=["LanguageModel", "ModelOutput"],
        bigram=["BigramLanguageModel"],
        config=["GPTConfig"],
        gpt=["GPTLanguageModel"],
        mixture=["MixtureLanguageModel"],
        ngram=["NGramLanguageModel"],
        quantising=["quantised"],
        resizing=["resized"],
    )
