"""A small text, its data, and a GPT for it: what most tests train and sample with."""

from typing import Any

import torch

from tinygpt import CharTokenizer, GPTConfig, GPTLanguageModel, TokenDataset
from tinygpt.models.config import Layout

TEXT = "the quick brown fox jumps over the lazy dog. " * 12
TOKENIZER = CharTokenizer.from_text(TEXT)
DATA = TokenDataset(TEXT, TOKENIZER, val_fraction=0.2)
BLOCK = 8


def make_gpt(layout: Layout = "notebook", *, seed: int = 1, **sizes: Any) -> GPTLanguageModel:
    """Build a tiny GPT for ``DATA``, or of other sizes, from a seed."""
    torch.manual_seed(seed)
    defaults = {"vocab_size": DATA.vocab_size, "block_size": BLOCK, "n_layer": 2, "n_head": 2, "n_embd": 8}
    return GPTConfig(layout=layout, **defaults | {"dropout": 0.0} | sizes).build()
