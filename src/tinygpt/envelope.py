"""Read the format of a model file.

It is a safetensors file whose metadata has one entry, ``"tinygpt"``: a JSON text ``{"payload": ..., "sha256": ...}``. A
file is read strictly, since it may come from anywhere. The error for any other file says what the file looks like and
what to do with it.

Source:
    https://github.com/huggingface/safetensors#format
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    cut,
    short,
    show,
)
from tinygpt.files import memory_bytes, no_file, parse_json, read_whole

__all__ = ["FLOATS", "FORMAT_VERSION", "KEY", "MOST_BYTES", "MOST_HEADER", "SUPPORTED", "read_envelope"]

FORMAT_VERSION = 2  # the latest; a file has format 1 unless it needs a later one
KEY = "tinygpt"  # a single key, since safetensors writes several in random order
MOST_BYTES = max(8 << 30, memory_bytes())  # the tensors of a larger file would not fit into memory
MOST_HEADER = 32 << 20  # bytes of the names and sizes of tensors, and of the payload with its vocabulary
# The dtypes that the digest, the check for NaN and the models can compute with, unlike float8 and complex numbers.
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SUPPORTED = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_KINDS = {
    "format": int,
    "model": str,
    "config": dict | None,
    "parts": dict | None,
    "tokenizer": dict | None,
    "training": dict | None,
}


def read_envelope(path: Path) -> tuple[dict[str, Any], str, dict[str, Tensor]]:
    """Return the payload, the recorded digest and the tensors of a file.

    Raises:
        CheckpointNotFoundError: If there is no such file.
        CheckpointCorruptError: If the file is not in this format.
        CheckpointVersionError: If a newer tinygpt wrote the file.
        CheckpointError: If it is not a regular file, is larger than ``MOST_BYTES``, or cannot be read.
    """
    try:
        raw = read_whole(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointNotFoundError(no_file(path, kind="model file")) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {show(path)} as a model file: {error}{_file_inside(path)}") from error
    try:
        payload, digest = _parse_header(raw)
        if payload["format"] > FORMAT_VERSION:
            raise CheckpointVersionError(
                f"{show(path)} has format {payload['format']}, this tinygpt reads up to {FORMAT_VERSION}; "
                "upgrade tinygpt"
            )
        tensors = load_tensors(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if len(raw) < (whole := _whole_size(raw)):
            raise CheckpointCorruptError(
                f"{show(path)} is incomplete: it has {len(raw):,} of at least {whole:,} bytes; copy or save it again"
            ) from error
        raise CheckpointCorruptError(f"{show(path)} is not a model file of tinygpt{_looks_like(raw, error)}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in SUPPORTED:
            raise CheckpointCorruptError(
                f"{show(path)} contains {short(name)} in {tensor.dtype}, which is not supported"
            )
    return payload, digest, tensors


def _parse_header(raw: bytes) -> tuple[dict[str, Any], str]:
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(len(raw) - 8, MOST_HEADER):
        raise ValueError("its header does not have the length that its first 8 bytes state")
    header = parse_json(raw[8 : 8 + size])
    envelope = parse_json(header["__metadata__"][KEY])
    payload = envelope["payload"]
    if envelope.keys() != {"payload", "sha256"} or payload.keys() != _KINDS.keys():
        raise ValueError("it does not contain a payload and its sha256")
    for name, kind in _KINDS.items():
        if not isinstance(payload[name], kind) or isinstance(payload[name], bool):
            raise ValueError(f"{name} must be a {kind}, got {short(payload[name])}")
    return payload, str(envelope["sha256"])


def _whole_size(raw: bytes) -> int:
    """Return the size that the header of a model file states, at least that of the header, or 0 for another file."""
    size = 8 + int.from_bytes(raw[:8], "little")
    if not raw.startswith(b'{"__metadata__":{"%b"' % KEY.encode(), 8) or size > MOST_HEADER:
        return 0
    try:
        entries = {name: each for name, each in parse_json(raw[8:size]).items() if name != "__metadata__"}
        end = max((each["data_offsets"][1] for each in entries.values()), default=0)
    except (ValueError, TypeError, LookupError, AttributeError):  # the header is cut off itself, or damaged
        return size
    return size + end if type(end) is int and 0 <= end < 1 << 62 else size


def _looks_like(raw: bytes, error: Exception) -> str:
    start = raw[:1024].lstrip().lower()
    if not raw:
        return ": it is empty; a save or a download was interrupted, use another copy"
    is_pickle = raw[:1] == b"\x80" and raw[8:9] != b"{"  # the first byte of a safetensors file may be 0x80 as well
    if raw[:2] == b"PK" or is_pickle or raw[257:262] == b"ustar":
        if b"model_args" in raw[:MOST_HEADER]:
            return (
                " (it looks like a checkpoint of nanoGPT); load it with torch.load(path, map_location='cpu', "
                "weights_only=True), then use interop.load_nanogpt"
            )
        return (
            " (it looks like a pickle, zip or tar file, which is never opened); where the model can still be built, "
            "save it again with tinygpt.save"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " (it looks like a web page); download the file itself, not the page that shows it"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer); fetch the file itself with git lfs pull"
    if raw[8:9] == b"{" and b'"data_offsets"' in raw[8 : 8 + MOST_HEADER] and KEY.encode() not in raw[:4096]:
        if b"ln_1.weight" in raw[8 : 8 + MOST_HEADER]:
            return " (it looks like a GPT-2 of Hugging Face); use interop.load_huggingface with the folder of the file"
        return (
            " (it looks like a safetensors file of another program); build the model and use "
            "model.load_state_dict(safetensors.torch.load_file(path))"
        )
    looks = " (it looks like a text, which tinygpt.read_text reads)" if _is_text(raw[:4096]) else ""
    return f"{looks}: {cut(str(error))}"


def _is_text(raw: bytes) -> bool:
    text = raw.decode("utf-8", "replace")[:-1]  # the sample may end within a character
    return len(text) > 7 and not re.search("[^\n\r\t\x20-\U0010ffff]|\ufffd", text)


def _file_inside(path: Path) -> str:
    names = sorted(each.name for each in path.glob("*.safetensors")) if path.is_dir() else []
    return f"; it is a directory, load a file in it, e.g. {names[0]}" if names else ""
