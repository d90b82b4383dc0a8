"""One file holds a model: weights, config and tokenizer, in the safetensors format, with a digest of it all.

Nothing in it can execute code, and any safetensors reader opens it. What is not weights is one JSON text in the
file's metadata: ``{"payload": ..., "sha256": ...}``, where the digest covers the payload and every tensor.

Source:
    The format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    CheckpointVersionError,
    ConfigError,
    InputTypeError,
    check_path,
    short,
)
from tinygpt.models import BigramLanguageModel, GPTConfig, GPTLanguageModel, LanguageModel
from tinygpt.tokenizer import CharTokenizer, Tokenizer

FORMAT_VERSION = 1
_KEY = "tinygpt"  # one key alone: of several, safetensors writes the order anew in each run


def save(path: str | os.PathLike[str], model: LanguageModel, tokenizer: Tokenizer | None = None) -> None:
    """Write a model, and the tokenizer it was trained with, to one file.

    The file appears whole or not at all: what was at the path before stays until the new one is complete. Equal
    models give equal bytes. A tokenizer of your own is yours to keep: only a :class:`CharTokenizer` can be written.

    Args:
        path: Where to write, by custom ``*.safetensors``.
        model: Any language model. One that :meth:`GPTLanguageModel.from_config` built, or a
            :class:`BigramLanguageModel`, is rebuilt by :func:`load` from the file alone.
        tokenizer: The tokenizer, or None.

    Raises:
        InputTypeError: If ``model`` is not a language model, the tokenizer cannot be written, or ``path`` is no path.
        CheckpointSaveError: If the file cannot be written.
    """
    if not isinstance(model, LanguageModel):
        raise InputTypeError(f"model must be a LanguageModel, got {type(model).__name__}")
    if tokenizer is not None and not isinstance(tokenizer, CharTokenizer):
        raise InputTypeError(
            f"tokenizer must be a CharTokenizer or None, got {type(tokenizer).__name__}; save it in its own way"
        )
    path = check_path("path", path)
    tensors = _unshared(model)
    payload = {
        "format": FORMAT_VERSION,
        "model": type(model).__name__,
        "config": _config_of(model),
        "tokenizer": None if tokenizer is None else json.loads(tokenizer.to_json()),
    }
    envelope = {"payload": payload, "sha256": _digest(tensors, payload)}
    _write(path, save_tensors(tensors, metadata={_KEY: _to_json(envelope)}))


def load(
    path: str | os.PathLike[str], *, into: LanguageModel | None = None
) -> tuple[LanguageModel, CharTokenizer | None]:
    """Read a model and its tokenizer, in evaluation mode and on the CPU.

    Args:
        path: A file that :func:`save` wrote.
        into: A model to put the weights into, for one composed by hand: build it as before and pass it here. It is
            the one returned, in its own mode and on its own device.

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
    payload, tensors = _read(path)
    if payload["format"] > FORMAT_VERSION:
        raise CheckpointVersionError(
            f"{short(str(path))} has format {payload['format']}, this tinygpt reads up to {FORMAT_VERSION}; upgrade it"
        )
    name = payload["model"]
    if into is None:
        if payload["config"] is None or name not in ("GPTLanguageModel", "BigramLanguageModel"):
            raise CheckpointMismatchError(
                f"{short(str(path))} holds the weights of a {short(name)} composed by hand; build it again and use "
                "load(path, into=model)"
            )
        model = _build(path, name, payload["config"]).eval()
    else:
        if name != type(into).__name__:
            raise CheckpointMismatchError(
                f"{short(str(path))} holds a {short(name)}, got a {type(into).__name__} to load it into"
            )
        model = into
    _check_fit(path, model, tensors)
    model.load_state_dict(tensors, strict=False)  # names were checked; of tied weights the file holds one
    tokenizer = None if payload["tokenizer"] is None else CharTokenizer.from_json(_to_json(payload["tokenizer"]))
    return model, tokenizer


def _config_of(model: LanguageModel) -> dict[str, Any] | None:
    if isinstance(model, BigramLanguageModel):
        return {"vocab_size": model.vocab_size, "block_size": model.block_size}
    config = getattr(model, "config", None)
    return asdict(config) if isinstance(config, GPTConfig) else None


def _build(path: Path, name: str, config: Any) -> LanguageModel:
    """Build the model that a file describes; its first weights, soon overwritten, are drawn from nobody's stream."""
    try:
        with torch.random.fork_rng(devices=[]):
            if name == "BigramLanguageModel":
                return BigramLanguageModel(**config)
            return GPTLanguageModel.from_config(GPTConfig(**config))
    except (ConfigError, TypeError, AttributeError) as error:
        raise CheckpointCorruptError(f"{short(str(path))} holds settings that are none: {error}") from error


def _unshared(model: LanguageModel) -> dict[str, Tensor]:
    """Return the weights by name, each storage once: of tied weights the first name in alphabetical order stays."""
    tensors, seen = {}, set()
    for name, tensor in sorted(model.state_dict().items()):
        place = (tensor.device, tensor.data_ptr(), tensor.shape)
        if place not in seen or not tensor.numel():
            tensors[name] = tensor.detach().cpu().contiguous()
        seen.add(place)
    return tensors


def _check_fit(path: Path, model: LanguageModel, tensors: Mapping[str, Tensor]) -> None:
    """Raise unless the file has just the weights that the model needs, in shape and dtype."""
    expected = _unshared(model)
    wrong = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    wrong += [f"{name} is not in the model" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        found, wanted = tensors[name], expected[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            wrong.append(f"{name} is {tuple(found.shape)} {found.dtype}, expected {tuple(wanted.shape)} {wanted.dtype}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise CheckpointMismatchError(f"{short(str(path))} does not fit the model: {shown}")


def _digest(tensors: Mapping[str, Tensor], payload: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(_to_json(payload).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_to_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _to_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the file once, and return its payload and tensors if the digest holds."""
    if not path.exists():
        raise CheckpointNotFoundError(f"there is no model file {short(str(path))}")
    if not path.is_file():
        raise CheckpointError(f"a model file must be a regular file, got {short(str(path))}")
    raw = path.read_bytes()
    try:
        tensors = load_tensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        envelope = json.loads(header["__metadata__"][_KEY])
        payload = envelope["payload"]
        if payload.keys() != {"format", "model", "config", "tokenizer"} or not isinstance(payload["format"], int):
            raise KeyError("payload")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        looks = (
            " (it looks like a pickle or zip file, which is never opened)"
            if raw[:2] == b"PK" or raw[:1] == b"\x80"
            else ""
        )
        raise CheckpointCorruptError(
            f"{short(str(path))} is not a model file of tinygpt{looks}: {short(str(error))}"
        ) from error
    digest = _digest(tensors, payload)
    if digest != envelope.get("sha256"):
        raise CheckpointCorruptError(
            f"{short(str(path))} was changed after it was written: its sha256 starts with {digest[:12]}, expected "
            f"{str(envelope.get('sha256'))[:12]}; use another copy"
        )
    return payload, tensors


def _write(path: Path, raw: bytes) -> None:
    """Put the bytes at the path in one rename, once they are safely on the disk."""
    target = path.resolve()  # a link stays a link
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".tinygpt-", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
        _sync_directory(target.parent)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise CheckpointSaveError(f"cannot write {short(str(path))} ({len(raw):,} bytes): {reason}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; where directories cannot be opened, as on Windows, the system does it by itself."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
