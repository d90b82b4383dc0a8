"""Attention is an average: what a head does when it has no preference, and what the mask does.

Run:   python examples/04_attention_is_an_average.py
Takes: a second.

With all queries at zero, every place a head may see counts the same, and its output is the running mean of the
values. With queries that ask for something, the same numbers become a choice.
"""

import torch

from tinygpt.layers import Head

torch.manual_seed(0)
torch.set_printoptions(precision=2, sci_mode=False)
x = torch.randn(1, 5, 8)  # one sequence of five places, each a vector of eight numbers

head = Head(n_embd=8, head_size=4)
torch.nn.init.zeros_(head.query.weight)
values = head.value(x)
running_mean = values.cumsum(dim=1) / torch.arange(1, 6).view(1, 5, 1)
print("Queries at zero: each row says how much a place takes from each other.")
print(head.weights(x)[0].detach())
print("The output is the running mean of the values:", torch.allclose(head(x), running_mean, atol=1e-6))

torch.nn.init.normal_(head.query.weight)
torch.nn.init.normal_(head.key.weight)
print("\nQueries that ask: rows still sum to 1, and what comes later still counts for nothing.")
print(head.weights(x)[0].detach())

head.causal = False
print("\nThe same head without the mask sees the future too.")
print(head.weights(x)[0].detach())
