"""Write a checkpoint in the format of nanoGPT, with the logits that its formula gives.

    python tests/interop/make_nanogpt.py

The formula is written out here with matrices alone, and shares no code with tinygpt.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 4, "block_size": 6, "vocab_size": 7}
PATH = Path(__file__).parent / "nanogpt.pt"


def weights(generator: torch.Generator, *, bias: bool) -> dict[str, Tensor]:
    """Return random weights under nanoGPT's names, those of a compiled model."""
    c = SIZES["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {"wte": (SIZES["vocab_size"], c), "wpe": (SIZES["block_size"], c)}
    for layer in range(SIZES["n_layer"]):
        for name, shape in {
            "ln_1": (c,),
            "attn.c_attn": (3 * c, c),
            "attn.c_proj": (c, c),
            "ln_2": (c,),
            "mlp.c_fc": (4 * c, c),
            "mlp.c_proj": (c, 4 * c),
        }.items():
            shapes[f"h.{layer}.{name}"] = shape
    found = {}
    for name, shape in (shapes | {"ln_f": (c,)}).items():
        found[f"_orig_mod.transformer.{name}.weight"] = 0.3 * torch.randn(shape, generator=generator)
        if bias and name not in ("wte", "wpe"):
            found[f"_orig_mod.transformer.{name}.bias"] = 0.3 * torch.randn(shape[0], generator=generator)
    return found | {"_orig_mod.lm_head.weight": found["_orig_mod.transformer.wte.weight"]}


def logits(state: Mapping[str, Tensor], idx: Tensor) -> Tensor:
    """Return the logits of nanoGPT for some ids, in float64."""
    heads, width = SIZES["n_head"], SIZES["n_embd"]
    state = {name.removeprefix("_orig_mod.transformer."): tensor.double() for name, tensor in state.items()}

    def normed(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state.get(f"{name}.bias", 0)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    x = state["wte.weight"][idx] + state["wpe.weight"][: idx.shape[1]]
    hidden = torch.ones(idx.shape[1], idx.shape[1]).triu(1).bool()
    for layer in range(SIZES["n_layer"]):
        query, key, value = linear(normed(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn").split(width, dim=-1)
        mixed = []
        for part in range(heads):
            columns = slice(part * width // heads, (part + 1) * width // heads)
            scores = query[..., columns] @ key[..., columns].mT / math.sqrt(width / heads)
            mixed.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ value[..., columns])
        x = x + linear(torch.cat(mixed, -1), f"h.{layer}.attn.c_proj")
        wide = linear(normed(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        x = x + linear(wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2))), f"h.{layer}.mlp.c_proj")
    return normed(x, "ln_f") @ state["wte.weight"].T


def main() -> None:
    """Write the file."""
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(SIZES["vocab_size"], (3, SIZES["block_size"]), generator=generator)
    found: dict[str, Any] = {"idx": idx}
    for bias in (True, False):
        state = weights(generator, bias=bias)
        found["biased" if bias else "unbiased"] = {
            "model": state,
            "model_args": SIZES | {"bias": bias, "dropout": 0.1},
            "iter_num": 20,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "shakespeare_char", "device": "cpu"},
            "logits": logits(state, idx),
        }
    torch.save(found, PATH)


if __name__ == "__main__":
    main()
