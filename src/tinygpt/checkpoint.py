"""One file holds a model: weights, config and tokenizer, in the safetensors format, with a digest of it all.

Nothing in it can execute code, and any safetensors reader opens it. What is not weights is one JSON text in the
file's metadata: ``{"payload": ..., "sha256": ...}``, where the digest covers the payload and every tensor. The files
from which training goes on are the same, with the state of the training beside the weights.

Source:
    The format: https://github.com/huggingface/safetensors#format
"""

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    CheckpointVersionError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    TinyGPTError,
    check_path,
    cut,
    short,
    show,
    warn,
)
from tinygpt.files import memory_bytes, parse_json, read_whole, to_json, write_whole
from tinygpt.layers.linear import undrawn
from tinygpt.models import BigramLanguageModel, GPTConfig, GPTLanguageModel, LanguageModel
from tinygpt.models.base import check_model
from tinygpt.models.layouts import parts_of
from tinygpt.tokenizer import CharTokenizer, Tokenizer, check_trained_with

FORMAT_VERSION = 1
TRAINING = "training/"  # what the names of all tensors that are not weights begin with
MOST_BYTES = max(8 << 30, memory_bytes())  # a larger file is not read, since its tensors would not fit into memory
_KEY = "tinygpt"  # one key alone: of several, safetensors writes the order anew in each run
_MOST_HEADER = 32 << 20  # bytes; names and sizes of tensors, and the payload with its vocabulary
_SYMBOLS = "symbols"  # the entry of a tokenizer that is not in the file: what its ids stand for
_KINDS = {
    "format": int,
    "model": str,
    "config": dict | None,
    "parts": dict | None,
    "tokenizer": dict | None,
    "training": dict | None,
}
# What the digest, the check for NaN and the models can compute with; float8 and complex numbers they cannot.
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def save(path: str | os.PathLike[str], model: LanguageModel, tokenizer: Tokenizer | None = None) -> None:
    """Write a model, and the tokenizer it was trained with, to one file.

    The file appears whole or not at all: when this returns it survives a loss of power, and until then what was at
    the path before does. Equal models give equal bytes. A tokenizer of your own is yours to keep: only a
    :class:`CharTokenizer` can be written.

    Args:
        path: Where to write, by custom ``*.safetensors``.
        model: Any language model. One that :meth:`GPTConfig.build` built, or a
            :class:`BigramLanguageModel`, is rebuilt by :func:`load` from the file alone, unless its parts were changed
            since.
        tokenizer: The tokenizer, or None.

    Raises:
        InputTypeError: If ``model`` is not a language model, the tokenizer cannot be written, or ``path`` is no path.
        ConfigError: If the tokenizer has more ids than the model.
        NonFiniteError: If a weight is NaN.
        TokenizerError: If the model was trained with other symbols than those of the tokenizer.
        CheckpointSaveError: If the file cannot be written.
    """
    check_model("model", model)
    if tokenizer is not None and not isinstance(tokenizer, CharTokenizer):
        raise InputTypeError(
            f"tokenizer must be a CharTokenizer or None, got {type(tokenizer).__name__}; save it in its own way"
        )
    write(check_path("path", path), *pack(model, tokenizer))


def load(
    path: str | os.PathLike[str], *, into: LanguageModel | None = None
) -> tuple[LanguageModel, CharTokenizer | None]:
    """Read a model and its tokenizer, in evaluation mode and on the CPU.

    Args:
        path: A file that :func:`save` or a :class:`Trainer` wrote.
        into: A model to put the weights into, for one composed or changed by hand: build it as before and pass it
            here. It is the one returned, in its own mode and on its own device.

    Returns:
        The model and the tokenizer, which is None if none was saved.

    Raises:
        InputTypeError: If ``path`` is no path.
        CheckpointNotFoundError: If there is no such file.
        CheckpointCorruptError: If the file is not one that :func:`save` wrote, or was changed since.
        CheckpointVersionError: If a newer tinygpt wrote it.
        CheckpointMismatchError: If the weights do not fit the model, naming each that does not.

    Warns:
        UserWarning: If ``into`` has weights of the right shapes, but other parts than the model that was saved.
    """
    path = check_path("path", path)
    payload, tensors = read(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
    name = payload["model"]
    if into is None:
        if payload["config"] is None or name not in ("GPTLanguageModel", "BigramLanguageModel"):
            raise CheckpointMismatchError(
                f"{show(path)} contains the weights of a {short(name)} composed or changed by hand; build it again and "
                "use load(path, into=model)"
            )
        model = _rebuild(path, name, payload["config"], weights).eval()
    else:
        check_model("into", into)
        if name != type(into).__name__:
            raise CheckpointMismatchError(
                f"{show(path)} contains a {short(name)}, got a {type(into).__name__} to load it into"
            )
        model = into
        check_fit(path, model, weights)
    tokenizer, symbols = unpack_tokenizer(path, payload, model), unpack_symbols(path, payload, model)
    if into is not None:
        if payload["parts"] and (changes := "; ".join(differences(payload["parts"], parts_of(model)).values())):
            warn(f"{show(path)} was saved with other parts of the same shapes: {cut(changes)}")
        model.load_state_dict(weights, strict=False)  # names were checked; of tied weights the file has one
    model.trained_symbols = symbols
    return model, tokenizer


def pack(model: LanguageModel, tokenizer: CharTokenizer | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a file holds of a model: its weights, copied, and the payload that describes it.

    Raises:
        ConfigError: If the tokenizer has more ids than the model.
        InputTypeError: If weights are in 8 bits or complex.
        NonFiniteError: If a weight is NaN.
        TokenizerError: If the model was trained with other symbols than those of the tokenizer.
    """
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"the tokenizer must not have more ids than the model, got {tokenizer.vocab_size} and {model.vocab_size}; "
            "use the tokenizer that the model was trained with"
        )
    if tokenizer is not None:
        check_trained_with(model, tokenizer)
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in distinct(model).items()}
    for name, tensor in weights.items():
        if tensor.dtype not in _DTYPES:
            raise InputTypeError(
                f"weights must be in float64, float32, bfloat16 or float16, buffers also in integers, to be saved, got "
                f"{tensor.dtype} in {name}; use model.float()"
            )
    if spoilt := _first_nan(weights):
        raise NonFiniteError(
            f"weights must not be NaN to be saved, got NaN in {spoilt}; what was saved before is intact"
        )
    config = config_of(model)
    payload = {
        "format": FORMAT_VERSION,
        "model": type(model).__name__,
        "config": config,
        "parts": parts_of(model) if config is None else None,
        "tokenizer": _pack_tokenizer(model, tokenizer),
        "training": None,
    }
    return weights, payload


def unpack_tokenizer(path: Path, payload: Mapping[str, Any], model: LanguageModel) -> CharTokenizer | None:
    """Return the tokenizer of a file.

    Raises:
        CheckpointCorruptError: If it is invalid, or has more ids than the model.
    """
    entry = payload["tokenizer"]
    if entry is None or entry.get("type") == _SYMBOLS:
        return None
    try:
        tokenizer = CharTokenizer.from_dict({name: value for name, value in entry.items() if name != "type"})
    except TinyGPTError as error:
        raise CheckpointCorruptError(f"{show(path)} contains an invalid tokenizer: {error}") from error
    if tokenizer.vocab_size > model.vocab_size:
        raise CheckpointCorruptError(
            f"{show(path)} contains a tokenizer of {tokenizer.vocab_size} ids for a model of {model.vocab_size}"
        )
    return tokenizer


def _pack_tokenizer(model: LanguageModel, tokenizer: CharTokenizer | None) -> Any:
    """Return the entry of a tokenizer or, without one, of the symbols that the model was trained with."""
    if tokenizer is not None:
        return {"type": "CharTokenizer"} | tokenizer.to_dict()
    return None if model.trained_symbols is None else {"type": _SYMBOLS, "symbols": list(model.trained_symbols)}


def unpack_symbols(path: Path, payload: Mapping[str, Any], model: LanguageModel) -> tuple[str | None, ...] | None:
    """Return the symbols that the model of a file was trained with, also with a tokenizer that no file can hold.

    Raises:
        CheckpointCorruptError: If they are not texts, or more than the model has ids.
    """
    entry = payload["tokenizer"]
    if entry is None:
        return None
    symbols = entry.get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(symbol, str | None) for symbol in symbols):
        raise CheckpointCorruptError(f"{show(path)} must hold the text of each id, got {short(symbols)}")
    if len(symbols) > model.vocab_size:
        raise CheckpointCorruptError(
            f"{show(path)} holds the symbols of {len(symbols)} ids for a model of {model.vocab_size}"
        )
    return tuple(symbols)


def config_of(model: LanguageModel) -> dict[str, Any] | None:
    """Return the settings from which a model can be built again, or None for one composed or changed by hand."""
    if isinstance(model, BigramLanguageModel):
        return {"vocab_size": model.vocab_size}
    if type(model) is not GPTLanguageModel or model.config is None or parts_of(model) != model.built_as:
        return None
    return model.config.to_dict()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries that are no longer the same, each in words."""
    return {
        name: f"{name}={short(now.get(name))} (checkpoint has {short(then.get(name))})"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    }


def _rebuild(path: Path, name: str, config: Any, weights: Mapping[str, Tensor]) -> LanguageModel:
    """Build the model that a file describes around the weights of the file.

    Its own first weights are never touched, and its blocks are built only where the file has weights for each, so a
    file that describes a huge model and contains a small one costs nothing.
    """
    try:
        with undrawn():
            if name == "BigramLanguageModel":
                model: LanguageModel = BigramLanguageModel(**config)
            else:
                whole = GPTConfig(**config)
                _check_blocks(whole, weights)
                model = whole.build()
    except (TinyGPTError, TypeError, RuntimeError) as error:  # the last for what no memory could hold
        raise CheckpointCorruptError(f"{show(path)} contains invalid settings: {cut(str(error))}") from error
    check_fit(path, model, weights, any_float=True)
    if len(dtypes := {str(tensor.dtype) for tensor in weights.values()}) > 1:
        raise CheckpointMismatchError(
            f"{show(path)} must contain weights of one dtype, got {', '.join(sorted(dtypes))}; build the model and use "
            "load(path, into=model)"
        )
    shared = {id(tensor): nn.Parameter(weights[name]) for name, tensor in distinct(model).items()}
    whole_state = {name: shared[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    model.load_state_dict(whole_state, assign=True)
    return model


def _check_blocks(config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise unless there are weights of the right shapes for each block that a config asks for.

    Raises:
        ConfigError: If not.
    """
    first = replace(config, n_layer=1).build().blocks[0].state_dict()
    for layer in range(config.n_layer):
        for name, tensor in first.items():
            found = weights.get(f"blocks.{layer}.{name}")
            if found is None or found.shape != tensor.shape:
                raise ConfigError(
                    f"n_layer={config.n_layer} needs a tensor blocks.{layer}.{name} of {list(tensor.shape)}"
                )


def distinct(model: LanguageModel) -> dict[str, Tensor]:
    """Return the weights by name, each once: of tied weights the first name in alphabetical order stays.

    Raises:
        InputTypeError: If the model keeps anything but tensors.
    """
    tensors, seen = {}, set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not isinstance(tensor, Tensor):
            raise InputTypeError(
                f"a model must keep tensors alone, got {short(tensor)} as {name}; return a tensor from get_extra_state"
            )
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else id(tensor)
        if place not in seen:
            tensors[name] = tensor
        seen.add(place)
    return tensors


def check_fit(path: Path, model: LanguageModel, weights: Mapping[str, Tensor], *, any_float: bool = False) -> None:
    """Raise unless the file has just the weights that the model needs, in shape and dtype.

    Raises:
        CheckpointMismatchError: Naming each that does not fit.
    """
    expected = distinct(model)
    wrong = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    wrong += [f"{short(name)} is not in the model" for name in weights.keys() - expected.keys()]
    for name in expected.keys() & weights.keys():
        found, wanted = weights[name], expected[name]
        dtype_fits = found.dtype in _FLOATS if any_float else found.dtype == wanted.dtype
        if found.shape != wanted.shape or not dtype_fits:
            shapes = short(tuple(found.shape)), short(tuple(wanted.shape))
            wrong.append(f"{name} is {shapes[0]} {found.dtype}, expected {shapes[1]} {wanted.dtype}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:4])
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointMismatchError(f"{show(path)} does not fit the model: {shown}{more}")


def _first_nan(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a NaN in it, or nothing. Infinite weights may be meant: log of 0."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and math.isnan(float(tensor.sum())) and tensor.isnan().any():
            return name
    return ""


def _digest(tensors: Mapping[str, Tensor], payload: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(to_json(payload).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(to_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], payload: Mapping[str, Any]) -> None:
    """Write tensors and a payload to a file that verifies itself.

    Raises:
        CheckpointSaveError: If it cannot be written, with the bytes it needs and those that are free.
    """
    envelope = {"payload": payload, "sha256": _digest(tensors, payload)}
    raw = save_tensors(dict(tensors), metadata={_KEY: to_json(envelope)})
    if (header := int.from_bytes(raw[:8], "little")) > _MOST_HEADER:
        raise CheckpointSaveError(
            errno.EFBIG,
            f"cannot write {show(path)}: the names of its tensors and its settings need {header:,} bytes, more than "
            f"the {_MOST_HEADER:,} that can be read back; what was there before is intact",
        )
    try:
        write_whole(path, raw)
    except OSError as error:
        message = f"cannot write {show(path)}: {error.strerror or error}; it needs {len(raw):,} bytes"
        if path.parent.is_dir():
            message += f", {shutil.disk_usage(path.parent).free:,} are free"
        raise CheckpointSaveError(error.errno, f"{message}; what was there before is intact") from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file once, and return its payload and tensors if the digest holds.

    Raises:
        CheckpointNotFoundError: If there is no such file.
        CheckpointCorruptError: If it is not one that :func:`write` wrote, or was changed since.
        CheckpointVersionError: If a newer tinygpt wrote it.
        CheckpointError: If it is not a regular file, larger than ``MOST_BYTES``, or cannot be read.
    """
    try:
        raw = read_whole(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointNotFoundError(f"there is no model file {show(path)}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {show(path)} as a model file: {error}{_inside(path)}") from error
    try:
        envelope = _read_envelope(raw)
        payload = envelope["payload"]
        if payload["format"] > FORMAT_VERSION:
            raise CheckpointVersionError(
                f"{show(path)} has format {payload['format']}, this tinygpt reads up to {FORMAT_VERSION}; upgrade it"
            )
        tensors = load_tensors(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointCorruptError(f"{show(path)} is not a model file of tinygpt{_looks_like(raw, error)}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointCorruptError(
                f"{show(path)} contains {short(name)} in {tensor.dtype}, which is not supported"
            )
    digest = _digest(tensors, payload)
    if digest != envelope["sha256"]:
        raise CheckpointCorruptError(
            f"{show(path)} was changed after it was written: its sha256 starts with {digest[:12]}, expected "
            f"{str(envelope['sha256'])[:12]!r}; use another copy"
        )
    if spoilt := _first_nan(tensors):
        raise CheckpointCorruptError(f"{show(path)} contains NaN in {short(spoilt)}; use another copy")
    return payload, tensors


def _looks_like(raw: bytes, error: Exception) -> str:
    """Return what a file that is not a model file of ours seems to be, with what to do, for a message."""
    start = raw[:1024].lstrip().lower()
    if not raw:
        return ": it is empty; a save or a download was interrupted, use another copy"
    is_pickle = raw[:1] == b"\x80" and raw[8:9] != b"{"  # which may also be the length of a header
    if raw[:2] == b"PK" or is_pickle or raw[257:262] == b"ustar":
        return (
            " (it looks like a pickle, zip or tar file, which is never opened); where the model can still be built, "
            "save it again with tinygpt.save"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " (it looks like a web page); download the file itself, not the page that shows it"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer); fetch the file itself with git lfs pull"
    if raw[8:9] == b"{" and b'"data_offsets"' in raw[8 : 8 + _MOST_HEADER] and _KEY.encode() not in raw[:4096]:
        return (
            " (it looks like a safetensors file of another program); build the model and use "
            "model.load_state_dict(safetensors.torch.load_file(path))"
        )
    looks = " (it looks like a text, for which there is tinygpt.read_text)" if _is_text(raw[:4096]) else ""
    return f"{looks}: {cut(str(error))}"


def _is_text(raw: bytes) -> bool:
    """Return whether bytes are UTF-8 text; a character cut at the end counts."""
    text = raw.decode("utf-8", "replace")[:-1]
    return len(text) > 7 and not re.search("[^\n\r\t\x20-\U0010ffff]|\ufffd", text)


def _inside(path: Path) -> str:
    """Return which file of a run's directory to load, for a message."""
    names = sorted(each.name for each in path.glob("*.safetensors")) if path.is_dir() else []
    return f"; it is a directory, load a file in it, e.g. {names[0]}" if names else ""


def _read_envelope(raw: bytes) -> dict[str, Any]:
    """Return the JSON text of ours in a file's header, with every kind of value checked that it is read as."""
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(len(raw) - 8, _MOST_HEADER):
        raise ValueError("it does not start with a header of the length that it says")
    header = parse_json(raw[8 : 8 + size])
    envelope = parse_json(header["__metadata__"][_KEY])
    payload = envelope["payload"]
    if envelope.keys() != {"payload", "sha256"} or payload.keys() != _KINDS.keys():
        raise ValueError("it does not hold a payload and its sha256")
    for name, kind in _KINDS.items():
        if not isinstance(payload[name], kind) or isinstance(payload[name], bool):
            raise ValueError(f"{name} must be a {kind}, got {short(payload[name])}")
    return envelope
