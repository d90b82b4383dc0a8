"""Swap the feed-forward: a block takes any module that you pass to it.

Run:   python examples/03_swap_the_feed_forward.py
Takes: about 30 seconds on two cores.

The program trains the same small model with ReLU, with GELU, and with a gated feed-forward of its own, and prints the
loss of each. There is no flag and no registry: nothing in the library knows the third one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt import GPTLanguageModel, TokenDataset, Trainer, TrainerConfig, compare, shakespeare
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention


class GatedFeedForward(nn.Module):
    """SwiGLU: one projection decides how much of another passes (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        hidden_size = 8 * n_embd // 3  # three matrices with as many weights as the usual two
        self.gate = nn.Linear(n_embd, hidden_size, bias=False)
        self.expand = nn.Linear(n_embd, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map B T C to B T C."""
        return self.output(F.silu(self.gate(x)) * self.expand(x))


def make_model(make_feed_forward: Callable[[], nn.Module]) -> GPTLanguageModel:
    """Build two blocks around a feed-forward."""
    torch.manual_seed(0)  # the same initial weights in the other parts of all models
    blocks = [
        DecoderBlock(64, attention=MultiHeadAttention(64, n_head=4), feed_forward=make_feed_forward()) for _ in range(2)
    ]
    return GPTLanguageModel(data.vocab_size, block_size=32, n_embd=64, blocks=blocks)


data = TokenDataset(shakespeare(), val_fraction=0.02)
models = {
    "ReLU": make_model(lambda: FeedForward(64)),
    "GELU": make_model(lambda: FeedForward(64, activation=F.gelu)),
    "gated": make_model(lambda: GatedFeedForward(64)),
}
config = TrainerConfig(max_iters=600, batch_size=32, eval_interval=600, preview_tokens=0)
print(compare({name: Trainer(model, data, config) for name, model in models.items()}, max_new_tokens=0))
