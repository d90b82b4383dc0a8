"""Your own attention: anything that maps B T C to B T C works at once, and gets faster when it learns to cache.

Run:   python examples/05_your_own_attention.py
Takes: about 20 seconds on two cores.

This one forgets: each place takes an exponentially fading mean of what came before, with a fading of its own for each
channel. It knows nothing of caches, so the sampler reads a whole window for each id. Then a subclass teaches it.
"""

import time

import torch
from torch import Tensor, nn

from tinygpt import CharTokenizer, GPTLanguageModel, Sampler, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.layers import DecoderBlock, FeedForward


class FadingMemory(nn.Module):
    """Each channel remembers with its own fading."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.fading = nn.Parameter(torch.linspace(-2, 6, n_embd))
        self.value = nn.Linear(n_embd, n_embd, bias=False)
        self.output = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map B T C to B T C; no place sees what comes later."""
        keep = self.fading.sigmoid()  # C
        places = torch.arange(x.shape[1])
        age = (places[:, None] - places)[..., None]  # T T 1
        weights = torch.where(age >= 0, (1 - keep) * keep ** age.clamp(min=0), 0.0)  # T T C
        return self.output(torch.einsum("tsc,bsc->btc", weights, self.value(x)))


class CachingMemory(FadingMemory):
    """The same, but it can go on from its last state, and says so by offering ``new_cache``."""

    def new_cache(self, batch_size: int, block_size: int) -> dict[str, Tensor]:
        """Return the state before the first place: the library passes it back and never looks inside."""
        return {"state": torch.zeros(batch_size, len(self.fading))}

    def forward(self, x: Tensor, cache: dict[str, Tensor] | None = None) -> Tensor:
        """Map B T C to B T C, place by place from the cached state where there is one."""
        if cache is None:
            return super().forward(x)
        keep, states = self.fading.sigmoid(), []
        for value in self.value(x).unbind(dim=1):
            cache["state"] = keep * cache["state"] + (1 - keep) * value
            states.append(cache["state"])
        return self.output(torch.stack(states, dim=1))


def make_model(memory: type[FadingMemory]) -> GPTLanguageModel:
    """Build two blocks around a memory; the same first weights for both kinds."""
    torch.manual_seed(0)
    blocks = [DecoderBlock(64, attention=memory(64), feed_forward=FeedForward(64)) for _ in range(2)]
    return GPTLanguageModel(tokenizer.vocab_size, block_size=64, n_embd=64, blocks=blocks)


text = shakespeare()
tokenizer = CharTokenizer.from_text(text)
data = TokenDataset(text, tokenizer, val_fraction=0.02)

plain = make_model(FadingMemory)
settings = TrainerConfig(max_iters=400, batch_size=16, eval_interval=200, preview_tokens=0)
Trainer(plain, data, settings).fit()

caching = make_model(CachingMemory)
caching.load_state_dict(plain.state_dict())

texts = {}
for name, model in {"without a cache": plain, "with a cache": caching}.items():
    start = time.perf_counter()
    texts[name] = Sampler(model, tokenizer).generate("ROMEO:\n", max_new_tokens=300)
    print(f"{name:<16} {300 / (time.perf_counter() - start):>6.0f} characters per second")
print("the same text:", len(set(texts.values())) == 1)
print("\n" + texts["with a cache"])
