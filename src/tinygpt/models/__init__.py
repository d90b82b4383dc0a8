"""The language models: their base class, the bigram, and the GPT with its config."""

from tinygpt.models.base import LanguageModel, ModelOutput
from tinygpt.models.bigram import BigramLanguageModel
from tinygpt.models.config import GPTConfig
from tinygpt.models.gpt import GPTLanguageModel

__all__ = ["BigramLanguageModel", "GPTConfig", "GPTLanguageModel", "LanguageModel", "ModelOutput"]
