"""Check a block of your own: find a leak from the future that training hides.

Run:   python examples/12_check_your_own_block.py
Takes: about 10 seconds on two cores.

The block below mixes each position with the mean of the positions before it, and then scales by the largest value. The
mistake is in the scaling: it takes the largest value of the whole window, including later positions. All shapes are
right, the model trains without a warning, and its loss looks plausible.
"""

import torch
from torch import Tensor, nn

from tinygpt import GPTLanguageModel, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.layers import DecoderBlock, FeedForward
from tinygpt.testing import CheckError, check_batch_independent, check_causal, check_gradients, check_shape


class RunningMean(nn.Module):
    """The mean of all positions up to each one, scaled by the largest value among them."""

    def __init__(self, n_embd: int, *, is_leaky: bool) -> None:
        super().__init__()
        self.value, self.is_leaky = nn.Linear(n_embd, n_embd), is_leaky

    def forward(self, x: Tensor) -> Tensor:
        """Map B T C to B T C."""
        value = self.value(x)
        mean = value.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]
        size = value.abs().amax(dim=-1, keepdim=True)  # B T 1
        largest = size.amax(dim=1, keepdim=True) if self.is_leaky else size.cummax(dim=1).values
        return mean / (1 + largest)


for is_leaky in (True, False):
    print(f"RunningMean(is_leaky={is_leaky})")
    for check in (check_shape, check_batch_independent, check_gradients, check_causal):
        try:
            check(RunningMean(8, is_leaky=is_leaky), torch.randn(2, 5, 8))
        except CheckError as error:
            print(f"  {check.__name__:<24} FAILED: {error}")
        else:
            print(f"  {check.__name__:<24} passed")

data = TokenDataset(shakespeare(), val_fraction=0.02)
settings = TrainerConfig(max_iters=200, batch_size=16, eval_interval=200, preview_tokens=0)
for is_leaky in (True, False):
    torch.manual_seed(0)
    blocks = [
        DecoderBlock(64, attention=RunningMean(64, is_leaky=is_leaky), feed_forward=FeedForward(64)) for _ in range(2)
    ]
    model = GPTLanguageModel(data.vocab_size, block_size=32, n_embd=64, blocks=blocks)
    history = Trainer(model, data, settings).fit(progress=False)
    print(f"is_leaky={is_leaky}: validation loss {history.best.val_loss:.3f} nats, and no warning from training")
