"""Peers that generate text, as functions of the number of rows and new tokens; absent ones are left out."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Writer = Callable[[int, int], object]  # rows, new tokens
VOCAB, BLOCK, LAYERS, HEADS, WIDTH = 65, 256, 6, 6, 384


def nanogpt() -> dict[str, Writer]:
    """Return nanoGPT's own generate, if NANOGPT names a checkout."""
    if "NANOGPT" not in os.environ:
        return {}
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT  # type: ignore[import-not-found]
    from model import GPTConfig as Config

    config = Config(
        block_size=BLOCK, vocab_size=VOCAB, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, dropout=0.0, bias=False
    )
    model = GPT(config).eval()
    return {"nanoGPT": lambda rows, count: model.generate(torch.zeros(rows, 1, dtype=torch.long), count)}


def transformers() -> dict[str, Writer]:
    """Return Hugging Face's GPT-2 with its cache in two dtypes, if it is installed."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-not-found]
    except ImportError:
        return {}
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=BLOCK,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=None,
    )

    def writer(dtype: torch.dtype) -> Writer:
        model = GPT2LMHeadModel(config).eval().to(dtype)

        def write(rows: int, count: int) -> object:
            idx = torch.zeros(rows, 1, dtype=torch.long)
            return model.generate(
                idx,
                attention_mask=torch.ones_like(idx),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )

        return write

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {f"transformers, with cache, {name}": writer(dtype) for name, dtype in names.items()}


def llama_cpp() -> dict[str, Writer]:
    """Return llama.cpp on a GPT-2 of the same shape in three formats, if ``gguf`` is installed; one row."""
    try:
        import gguf  # type: ignore[import-not-found]
        from llama_cpp import Llama  # type: ignore[import-not-found]
    except ImportError:
        return {}
    folder = Path(tempfile.mkdtemp())
    writers: dict[str, Writer] = {}
    for name, format_ in (("F32", None), ("F16", np.float16), ("Q8_0", gguf.GGMLQuantizationType.Q8_0)):
        path = folder / f"{name}.gguf"
        _write_gguf(gguf, path, format_)
        threads = torch.get_num_threads()
        llama = Llama(str(path), n_ctx=BLOCK, n_threads=threads, n_threads_batch=threads, seed=0, verbose=False)

        def write(rows: int, count: int, llama: Any = llama) -> object:
            assert rows == 1
            llama.reset()
            ids = llama.generate([1], top_k=0, top_p=1.0, temp=1.0, repeat_penalty=1.0, reset=True)
            return [next(ids) for _ in range(count)]

        writers[f"llama.cpp, {name}"] = write
    return writers


def _write_gguf(gguf: Any, path: Path, format_: Any) -> None:
    """Write a GPT-2 with random weights; norms, biases and positions in float32, as in llama.cpp's files."""
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(BLOCK)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    draws = np.random.default_rng(0)

    def add(name: str, *shape: int, kind: str = "matrix") -> None:
        values = draws.normal(0, 0.02, shape) if kind == "matrix" else np.full(shape, float(kind == "gain"))
        data = values.astype(np.float32)
        if kind != "matrix" or format_ is None or name == "position_embd.weight":
            writer.add_tensor(name, data)
        elif format_ is np.float16:
            writer.add_tensor(name, data.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, format_), raw_dtype=format_)

    def norm(name: str) -> None:
        add(f"{name}.weight", WIDTH, kind="gain")
        add(f"{name}.bias", WIDTH, kind="bias")

    add("token_embd.weight", VOCAB, WIDTH)
    add("position_embd.weight", BLOCK, WIDTH)
    add("output.weight", VOCAB, WIDTH)
    norm("output_norm")
    for layer in range(LAYERS):
        part = f"blk.{layer}."
        norm(part + "attn_norm")
        norm(part + "ffn_norm")
        for name, rows, columns in (
            ("attn_qkv", 3 * WIDTH, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_up", 4 * WIDTH, WIDTH),
            ("ffn_down", WIDTH, 4 * WIDTH),
        ):
            add(f"{part}{name}.weight", rows, columns)
            add(f"{part}{name}.bias", rows, kind="bias")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
