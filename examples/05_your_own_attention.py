"""Your own attention: any module from B T C to B T C works at once, and generates faster with a cache.

Run:   python examples/05_your_own_attention.py
Takes: about 20 seconds on two cores.

Each position takes an exponentially fading mean of the positions before it, at a different rate for each channel.
Without a cache, the sampler reads a whole window for each token. A subclass adds the cache, and the text is the same.
"""

import time

import torch
from torch import Tensor, nn

from tinygpt import GPTLanguageModel, Sampler, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.layers import DecoderBlock, FeedForward


class FadingMemory(nn.Module):
    """A fading mean of earlier positions, with a learned rate for each channel."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.fading = nn.Parameter(torch.linspace(-2, 6, n_embd))
        self.value = nn.Linear(n_embd, n_embd, bias=False)
        self.output = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map B T C to B T C; no position reads later ones."""
        keep = self.fading.sigmoid()  # C
        positions = torch.arange(x.shape[1])
        age = (positions[:, None] - positions)[..., None]  # T T 1
        weights = torch.where(age >= 0, (1 - keep) * keep ** age.clamp(min=0), 0.0)  # T T C
        return self.output(torch.einsum("tsc,bsc->btc", weights, self.value(x)))


class CachingMemory(FadingMemory):
    """The same mean, which can also continue from its last state. The method ``new_cache`` says so."""

    def new_cache(self, batch_size: int, block_size: int) -> dict[str, Tensor]:
        """Return the state before the first position; only this class reads it."""
        return {"state": torch.zeros(batch_size, len(self.fading))}

    def forward(self, x: Tensor, cache: dict[str, Tensor] | None = None) -> Tensor:
        """Map B T C to B T C; with a cache, continue from its state one position at a time."""
        if cache is None:
            return super().forward(x)
        keep, states = self.fading.sigmoid(), []
        for value in self.value(x).unbind(dim=1):
            cache["state"] = keep * cache["state"] + (1 - keep) * value
            states.append(cache["state"])
        return self.output(torch.stack(states, dim=1))


def make_model(memory: type[FadingMemory]) -> GPTLanguageModel:
    """Build two blocks around a memory."""
    torch.manual_seed(0)
    blocks = [DecoderBlock(64, attention=memory(64), feed_forward=FeedForward(64)) for _ in range(2)]
    return GPTLanguageModel(data.vocab_size, block_size=64, n_embd=64, blocks=blocks)


data = TokenDataset(shakespeare(), val_fraction=0.02)
settings = TrainerConfig(max_iters=400, batch_size=16, eval_interval=200, preview_tokens=0)
trainer = Trainer(make_model(FadingMemory), data, settings)
trainer.fit()

caching = make_model(CachingMemory)
caching.load_state_dict(trainer.model.state_dict())

assert data.tokenizer is not None
texts = {}
for name, sampler in {"without a cache": trainer.sampler(), "with a cache": Sampler(caching, data.tokenizer)}.items():
    start = time.perf_counter()
    texts[name] = sampler("ROMEO:\n", max_new_tokens=300, seed=0)
    print(f"{name:<16} {300 / (time.perf_counter() - start):>6.0f} characters per second")
print("the same text:", len(set(texts.values())) == 1)
print("\n" + texts["with a cache"])
