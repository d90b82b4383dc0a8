"""Write a GPT-2 and a tokenizer in the format of Hugging Face, with the logits that transformers gives.

    python tests/interop/make_huggingface.py

transformers and tokenizers alone write the folder, without tinygpt. The logits are those of both GELUs, in float64.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SYMBOLS = ["\n", " ", "a", "b", "c", "é", "漢", "👍"]
FOLDER = Path(__file__).parent / "huggingface"
LOGITS = FOLDER / "logits.safetensors"
SIZES = {"vocab_size": len(SYMBOLS), "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}


def main() -> None:
    """Write the files."""
    generator = torch.Generator().manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZES, bos_token_id=None, eos_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    model.save_pretrained(FOLDER)
    tokenizer = Tokenizer(models.BPE({symbol: id for id, symbol in enumerate(SYMBOLS)}, [], unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(FOLDER)
    idx = torch.randint(SIZES["vocab_size"], (3, SIZES["n_positions"]), generator=generator)
    found = {"idx": idx}
    for activation in ("gelu_new", "gelu"):
        other = GPT2LMHeadModel(GPT2Config(**SIZES, activation_function=activation)).double().eval()
        other.load_state_dict(model.state_dict())
        found[activation] = other(idx).logits.detach()
    save_file(found, LOGITS)


if __name__ == "__main__":
    main()
