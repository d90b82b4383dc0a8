"""An encoder block: without the mask, a block reads in both directions.

Run:   python examples/06_an_encoder_block.py
Takes: about 15 seconds on two cores.

A fifth of the characters of a passage is hidden, and a model has to restore them. A decoder reads only earlier
positions. An encoder is the same block with ``causal=False``. It reads all positions and guesses better.
"""

import torch
from torch.nn import functional as F

from tinygpt import CharTokenizer, GPTLanguageModel, TokenDataset, shakespeare
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention, RMSNorm, RotaryPositions

text = shakespeare()
tokenizer = CharTokenizer.from_text(text + "█")  # one more symbol, which stands for a hidden character
data = TokenDataset(text, tokenizer, val_fraction=0.02)
HIDDEN = tokenizer.stoi["█"]


def make_model(causal: bool) -> GPTLanguageModel:
    """Build two blocks, with the mask or without."""
    torch.manual_seed(0)
    rotary = RotaryPositions(head_size=16)
    blocks = [
        DecoderBlock(
            64,
            attention=MultiHeadAttention(64, n_head=4, causal=causal, norm=RMSNorm(16), positions=rotary),
            feed_forward=FeedForward(64),
            norm=RMSNorm,
        )
        for _ in range(2)
    ]
    return GPTLanguageModel(data.vocab_size, block_size=32, n_embd=64, blocks=blocks, positions=None, norm=RMSNorm)


def hide(ids: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids with a fifth of them hidden, and the hidden ones as targets."""
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    return ids.masked_fill(hidden, HIDDEN), ids.masked_fill(~hidden, -100)  # -100 is ignored by the loss


for name, causal in (("decoder", True), ("encoder", False)):
    model = make_model(causal)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(600):
        batch = data.batch("train", step=step, batch_size=32, block_size=32)
        loss = model(*hide(batch.x, seed=step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    x = data.batch("val", step=0, batch_size=200, block_size=32).x
    masked, targets = hide(x, seed=0)
    with torch.no_grad():
        logits = model(masked).logits
    right = (logits.argmax(dim=-1) == targets)[targets >= 0].double().mean()
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    print(f"{name}: loss {loss:.3f} nats, {right:.0%} of the hidden characters restored")
