"""One file holds a model: weights, config and tokenizer, in the safetensors format, with a digest of it all.

Nothing in it can execute code, and any safetensors reader opens it. What is not weights is one JSON text in the
file's metadata: ``{"payload": ..., "sha256": ...}``, where the digest covers the payload and every tensor. The files
from which training goes on are the same, with the state of the training beside the weights.

Source:
    The format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
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
    short,
    show,
)
from tinygpt.files import parse_json, read_whole, to_json, write_whole
from tinygpt.layers.linear import undrawn
from tinygpt.models import BigramLanguageModel, GPTConfig, GPTLanguageModel, LanguageModel
from tinygpt.models.base import check_model
from tinygpt.tokenizer import CharTokenizer, Tokenizer

FORMAT_VERSION = 1
TRAINING = "training/"  # what the names of all tensors that are not weights begin with
MOST_BYTES = 8 << 30  # a file that is larger is not read: no small model fills it
_KEY = "tinygpt"  # one key alone: of several, safetensors writes the order anew in each run
_MOST_HEADER = 32 << 20  # bytes; names and sizes of tensors, and the payload with its vocabulary
_KINDS = {"format": int, "model": str, "config": dict | None, "tokenizer": dict | None, "training": dict | None}


def save(path: str | os.PathLike[str], model: LanguageModel, tokenizer: Tokenizer | None = None) -> None:
    """Write a model, and the tokenizer it was trained with, to one file.

    The file appears whole or not at all: when this returns it survives a loss of power, and until then what was at
    the path before does. Equal models give equal bytes. A tokenizer of your own is yours to keep: only a
    :class:`CharTokenizer` can be written.

    Args:
        path: Where to write, by custom ``*.safetensors``.
        model: Any language model. One that :meth:`GPTLanguageModel.from_config` built, or a
            :class:`BigramLanguageModel`, is rebuilt by :func:`load` from the file alone, unless its parts were changed
            since.
        tokenizer: The tokenizer, or None.

    Raises:
        InputTypeError: If ``model`` is not a language model, the tokenizer cannot be written, or ``path`` is no path.
        ConfigError: If the tokenizer has more ids than the model.
        NonFiniteError: If a weight is NaN.
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
    """
    path = check_path("path", path)
    payload, tensors = read(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
    name = payload["model"]
    if into is None:
        if payload["config"] is None or name not in ("GPTLanguageModel", "BigramLanguageModel"):
            raise CheckpointMismatchError(
                f"{show(path)} holds the weights of a {short(name)} composed or changed by hand; build it again and "
                "use load(path, into=model)"
            )
        model = _rebuild(path, name, payload["config"], weights).eval()
    else:
        if name != type(into).__name__:
            raise CheckpointMismatchError(
                f"{show(path)} holds a {short(name)}, got a {type(into).__name__} to load it into"
            )
        model = into
        put_weights(path, model, weights)
    return model, unpack_tokenizer(path, payload, model)


def pack(model: LanguageModel, tokenizer: CharTokenizer | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a file holds of a model: its weights, copied, and the payload that describes it.

    Raises:
        ConfigError: If the tokenizer has more ids than the model.
        NonFiniteError: If a weight is NaN.
    """
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"the tokenizer must not have more ids than the model, got {tokenizer.vocab_size} and {model.vocab_size}; "
            "use the tokenizer that the model was trained with"
        )
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in distinct(model).items()}
    if spoilt := _first_nan(weights):
        raise NonFiniteError(
            f"weights must not be NaN to be saved, got NaN in {spoilt}; what was saved before is intact"
        )
    payload = {
        "format": FORMAT_VERSION,
        "model": type(model).__name__,
        "config": config_of(model),
        "tokenizer": None if tokenizer is None else parse_json(tokenizer.to_json()),
        "training": None,
    }
    return weights, payload


def put_weights(path: Path, model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Put the weights of a file into a model, if they are just those that it has.

    Raises:
        CheckpointMismatchError: If they are not, naming each that does not fit.
    """
    _check_fit(path, model, weights, same_dtype=True)
    model.load_state_dict(weights, strict=False)  # names were checked; of tied weights the file holds one


def unpack_tokenizer(path: Path, payload: Mapping[str, Any], model: LanguageModel) -> CharTokenizer | None:
    """Return the tokenizer of a file.

    Raises:
        CheckpointCorruptError: If it is none, or not one for this model.
    """
    if payload["tokenizer"] is None:
        return None
    try:
        tokenizer = CharTokenizer.from_json(to_json(payload["tokenizer"]))
    except TinyGPTError as error:
        raise CheckpointCorruptError(f"{show(path)} holds a tokenizer that is none: {error}") from error
    if tokenizer.vocab_size > model.vocab_size:
        raise CheckpointCorruptError(
            f"{show(path)} holds a tokenizer of {tokenizer.vocab_size} ids for a model of {model.vocab_size}"
        )
    return tokenizer


def config_of(model: LanguageModel) -> dict[str, Any] | None:
    """Return the settings from which a model can be built again, or None for one composed or changed by hand."""
    if isinstance(model, BigramLanguageModel):
        return {"vocab_size": model.vocab_size, "block_size": model.block_size}
    config = getattr(model, "config", None)
    if not isinstance(config, GPTConfig):
        return None
    with undrawn():
        described = GPTLanguageModel.from_config(config)
    return asdict(config) if _parts(model) == _parts(described) else None


def _parts(model: nn.Module) -> list[tuple[str, type, str]]:
    """Return what a model consists of: a part that was replaced shows, also one without weights."""
    return [(name, type(part), part.extra_repr()) for name, part in model.named_modules()]


def _rebuild(path: Path, name: str, config: Any, weights: Mapping[str, Tensor]) -> LanguageModel:
    """Build the model that a file describes around the weights of the file.

    Its own first weights are never touched, so that a file which says a huge model and holds a small one costs nothing.
    """
    try:
        if config.get("n_layer", 0) > len(weights):
            raise ConfigError(f"n_layer={config['n_layer']} is more than there are tensors")
        with undrawn():
            model: LanguageModel = (
                BigramLanguageModel(**config)
                if name == "BigramLanguageModel"
                else GPTLanguageModel.from_config(GPTConfig(**config))
            )
    except (TinyGPTError, TypeError, RuntimeError) as error:  # the last for what no memory could hold
        raise CheckpointCorruptError(f"{show(path)} holds settings that are none: {short(str(error))}") from error
    _check_fit(path, model, weights, same_dtype=False)
    shared = {id(tensor): nn.Parameter(weights[name]) for name, tensor in distinct(model).items()}
    whole = {name: shared[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    model.load_state_dict(whole, assign=True)
    return model


def distinct(model: LanguageModel) -> dict[str, Tensor]:
    """Return the weights by name, each once: of tied weights the first name in alphabetical order stays."""
    tensors, seen = {}, set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else id(tensor)
        if place not in seen:
            tensors[name] = tensor
        seen.add(place)
    return tensors


def _check_fit(path: Path, model: LanguageModel, weights: Mapping[str, Tensor], *, same_dtype: bool) -> None:
    """Raise unless the file has just the weights that the model needs, in shape and dtype."""
    expected = distinct(model)
    wrong = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    wrong += [f"{short(name)} is not in the model" for name in weights.keys() - expected.keys()]
    for name in expected.keys() & weights.keys():
        found, wanted = weights[name], expected[name]
        dtype_fits = found.dtype == wanted.dtype if same_dtype else found.is_floating_point()
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
        raise CheckpointError(f"cannot read {show(path)} as a model file: {error}") from error
    try:
        envelope = _read_envelope(raw)
        payload = envelope["payload"]
        if payload["format"] > FORMAT_VERSION:
            raise CheckpointVersionError(
                f"{show(path)} has format {payload['format']}, this tinygpt reads up to {FORMAT_VERSION}; upgrade it"
            )
        tensors = load_tensors(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        pickled = raw[:2] == b"PK" or raw[:1] == b"\x80" or raw[257:262] == b"ustar"
        looks = " (it looks like a pickle, zip or tar file, which is never opened)" if pickled else ""
        raise CheckpointCorruptError(
            f"{show(path)} is not a model file of tinygpt{looks}: {short(str(error))}"
        ) from error
    digest = _digest(tensors, payload)
    if digest != envelope["sha256"]:
        raise CheckpointCorruptError(
            f"{show(path)} was changed after it was written: its sha256 starts with {digest[:12]}, expected "
            f"{str(envelope['sha256'])[:12]!r}; use another copy"
        )
    if spoilt := _first_nan(tensors):
        raise CheckpointCorruptError(f"{show(path)} holds NaN in {short(spoilt)}; use another copy")
    return payload, tensors


def _read_envelope(raw: bytes) -> dict[str, Any]:
    """Return the JSON text of ours in a file's header, with every kind of value checked that it is read as."""
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(len(raw) - 8, _MOST_HEADER):
        raise ValueError(f"a header of {size} bytes in a file of {len(raw)}")
    header = parse_json(raw[8 : 8 + size])
    envelope = parse_json(header["__metadata__"][_KEY])
    payload = envelope["payload"]
    if envelope.keys() != {"payload", "sha256"} or payload.keys() != _KINDS.keys():
        raise ValueError("it does not hold a payload and its sha256")
    for name, kind in _KINDS.items():
        if not isinstance(payload[name], kind) or isinstance(payload[name], bool):
            raise ValueError(f"{name} must be a {kind}, got {short(payload[name])}")
    return envelope
