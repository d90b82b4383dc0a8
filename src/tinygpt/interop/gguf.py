"""Save a model for llama.cpp and ollama as one GGUF file.

The file is written directly, with a vocabulary of characters. Its format is a header, named values, the names and
shapes of the tensors, and their numbers, each tensor on a boundary of 32 bytes.

Source:
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tinygpt.errors import ConfigError, InputTypeError, check_integer, short
from tinygpt.files import check_path
from tinygpt.interop.names import check_utf8, names_in, unpack_model, write_file
from tinygpt.models import GPTConfig, LanguageModel
from tinygpt.tokenizer import CharTokenizer, Tokenizer, end_id_of

_ALIGNMENT = 32
_ROUNDED_TO = 256  # llama.cpp reads this many positions at least, and aborts past the end of the table
_NORMAL, _CONTROL = 1, 3  # types of a token
# How struct packs a value, and the number of its type in the format; an int is unsigned outside an array.
_KINDS: dict[type, tuple[str, int]] = {int: ("<I", 4), float: ("<f", 6), bool: ("<?", 7)}
_SIGNED, _STRING, _ARRAY = 5, 8, 9


def save_gguf(
    path: str | os.PathLike[str], model: LanguageModel, tokenizer: Tokenizer, *, end_id: int | None = None
) -> None:
    """Save a model and its tokenizer for llama.cpp and ollama.

    The weights are float32. llama.cpp computes the GELU by a table of 16-bit numbers, so its logits differ in the
    fourth digit. It treats an unknown character otherwise than the tokenizer: it may leave it out, or end the program.

    Args:
        path: Where to write, by convention ``*.gguf``.
        model: A model of ``layout="gpt2"`` or ``"nanogpt"`` that :meth:`GPTConfig.build` built.
        tokenizer: A :class:`CharTokenizer` with an id for each of the model's.
        end_id: The id at which llama.cpp ends a text; by default ``tokenizer.end_id``. A vocabulary with characters
            outside ASCII needs one, since llama.cpp would take the id 11.

    Raises:
        InputTypeError: If an argument has the wrong type.
        ConfigError: If GPT-2 cannot hold the model, the numbers of ids differ, or the end of a text is missing.
        TokenizerError: If the model was trained with other symbols, or a symbol is a lone surrogate.
        NonFiniteError: If a weight is NaN.
        CheckpointSaveError: If the file cannot be written.

    Example:
        >>> tokenizer = CharTokenizer.from_text("to be, or not to be")
        >>> config = GPTConfig.gpt2(vocab_size=8, block_size=16, n_layer=1, n_head=2, n_embd=8)
        >>> path = getfixture("tmp_path") / "model.gguf"
        >>> save_gguf(path, config.build(seed=0), tokenizer)
        >>> path.read_bytes()[:4]
        b'GGUF'
    """
    target = check_path("path", path)
    if not isinstance(tokenizer, CharTokenizer):
        raise InputTypeError(f"tokenizer must be a CharTokenizer for GGUF, got {type(tokenizer).__name__}")
    config, weights = unpack_model(model, tokenizer, "GGUF")
    if tokenizer.vocab_size != config.vocab_size:
        raise ConfigError(
            f"the tokenizer must have an id for each of the model's, got {tokenizer.vocab_size} and "
            f"{config.vocab_size}; train with vocab_size={tokenizer.vocab_size}"
        )
    end = end_id_of(tokenizer) if end_id is None else check_integer("end_id", end_id, 0, config.vocab_size - 1)
    values = _settings(config) | _vocabulary(tokenizer, end)
    tensors = {theirs: weights[ours].float() for ours, theirs in names_in("gguf", config.n_layer)}
    table = tensors["position_embd.weight"]
    rows = values["gpt2.context_length"] - len(table)
    tensors["position_embd.weight"] = torch.cat([table, table[-1:].expand(rows, -1)])
    write_file(target, _pack(values, tensors))


def _settings(config: GPTConfig) -> dict[str, Any]:
    return {
        "general.architecture": "gpt2",
        "general.file_type": 0,  # float32
        "gpt2.block_count": config.n_layer,
        "gpt2.context_length": -(-config.block_size // _ROUNDED_TO) * _ROUNDED_TO,
        "gpt2.embedding_length": config.n_embd,
        "gpt2.feed_forward_length": 4 * config.n_embd,
        "gpt2.attention.head_count": config.n_head,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }


def _vocabulary(tokenizer: CharTokenizer, end: int | None) -> dict[str, Any]:
    """Return the values that describe the symbols of a tokenizer.

    ASCII uses the tokenizer ``rwkv``, which has no ids with a meaning of their own. It hangs on some texts outside its
    vocabulary, so all others use ``gpt2``, where a symbol of several bytes is merged from them.
    """
    check_utf8(tokenizer, "GGUF")
    raw = [symbol.encode() for symbol in tokenizer.symbols]
    values: dict[str, Any] = {"tokenizer.ggml.add_bos_token": False}
    if all(len(each) == 1 for each in raw):
        values["tokenizer.ggml.model"] = "rwkv"
        values["tokenizer.ggml.tokens"] = [_escaped(each[0]) for each in raw]
    elif end is None:
        raise ConfigError(
            f"end_id must be given for a vocabulary outside ASCII, got None and {short(max(tokenizer.symbols))}; "
            "llama.cpp would end each text at the id 11"
        )
    else:
        letters = _byte_alphabet()
        words = ["".join(letters[byte] for byte in each) for each in raw]
        merges = {(word[:cut], word[cut]): None for word in words for cut in range(1, len(word))}
        values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"] = "gpt2", "gpt-2"
        values["tokenizer.ggml.tokens"], values["tokenizer.ggml.merges"] = words, [" ".join(pair) for pair in merges]
    values["tokenizer.ggml.token_type"] = [
        _CONTROL if id == end_id_of(tokenizer) else _NORMAL for id in range(len(raw))
    ]
    return values if end is None else values | {"tokenizer.ggml.eos_token_id": end}


def _escaped(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}"


def _byte_alphabet() -> list[str]:
    """Return the printable character by which GPT-2's tokenizer writes each byte.

    Source:
        Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019, section 2.2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(0x100) if byte not in printable)
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(0x100)]


def _pack(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a GGUF file, version 3."""
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    for name, value in values.items():
        header += [_text(name), *_value(value)]
    offset, numbers = 0, []
    for name, tensor in tensors.items():
        raw = _aligned(tensor.numpy().tobytes())
        shape = tensor.shape[::-1]
        header += [_text(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)]
        numbers.append(raw)
        offset += len(raw)
    return b"".join([_aligned(b"".join(header)), *numbers])


def _value(value: Any) -> Iterable[bytes]:
    """Yield the type of a value, then the value."""
    if isinstance(value, list):
        is_text = isinstance(value[0], str)
        yield struct.pack("<IIQ", _ARRAY, _STRING if is_text else _SIGNED, len(value))
        yield from map(_text, value) if is_text else (struct.pack("<i", each) for each in value)
    elif isinstance(value, str):
        yield struct.pack("<I", _STRING)
        yield _text(value)
    else:
        how, kind = _KINDS[type(value)]
        yield struct.pack("<I", kind)
        yield struct.pack(how, value)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _aligned(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGNMENT)
