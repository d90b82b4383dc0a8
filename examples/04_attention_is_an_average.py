"""Attention is an average: the weights of a head with and without queries, and without the mask.

Run:   python examples/04_attention_is_an_average.py
Takes: about 3 seconds, most of it to import PyTorch.

With all queries at zero, every visible position has the same weight, and the output of the head is the running mean of
the values. With other queries, each position chooses which positions to read.
"""

import torch

from tinygpt.layers import Head

torch.manual_seed(0)
torch.set_printoptions(precision=2, sci_mode=False)
x = torch.randn(1, 5, 8)  # one sequence of five positions, each a vector of eight numbers

head = Head(n_embd=8, head_size=4)
torch.nn.init.zeros_(head.query.weight)
values = head.value(x)
running_mean = values.cumsum(dim=1) / torch.arange(1, 6).view(1, 5, 1)
print("Queries at zero: row t has the weights with which position t reads positions 0 to 4.")
print(head.weights(x)[0].detach())
print("The output is the running mean of the values:", torch.allclose(head(x), running_mean, atol=1e-6))

torch.nn.init.normal_(head.query.weight)
torch.nn.init.normal_(head.key.weight)
print("\nRandom queries and keys: rows still sum to 1, and later positions still have weight 0.")
print(head.weights(x)[0].detach())

head.causal = False
print("\nThe same head without the mask reads later positions too.")
print(head.weights(x)[0].detach())
