"""Bring models and tokenizers in from other programs, and take them out.

No function needs the other program, and :func:`save_onnx` alone needs packages, those of ``tinygpt[onnx]``. Each checks
what it reads or writes before anything changes.
"""

from typing import TYPE_CHECKING

from tinygpt.lazy import lazy_names

if TYPE_CHECKING:
    from tinygpt.interop.gguf import save_gguf
    from tinygpt.interop.huggingface import load_huggingface, save_huggingface
    from tinygpt.interop.nanogpt import load_nanogpt
    from tinygpt.interop.onnx import save_onnx
    from tinygpt.interop.tokenizer_json import to_huggingface
    from tinygpt.interop.tokenizers import AdaptedTokenizer, adapt

__all__ = [
    "AdaptedTokenizer",
    "adapt",
    "load_huggingface",
    "load_nanogpt",
    "save_gguf",
    "save_huggingface",
    "save_onnx",
    "to_huggingface",
]

if not TYPE_CHECKING:  # a type checker should report unknown names
    __getattr__, __dir__ = lazy_names(
        __name__,
        gguf=["save_gguf"],
        huggingface=["load_huggingface", "save_huggingface"],
        nanogpt=["load_nanogpt"],
        onnx=["save_onnx"],
        tokenizer_json=["to_huggingface"],
        tokenizers=["AdaptedTokenizer", "adapt"],
    )
