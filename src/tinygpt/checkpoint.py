"""Save and load a model and its tokenizer as one self-verifying file.

The file is in the safetensors format, contains no code, and opens in any safetensors reader. A digest covers every
byte that is loaded. Checkpoints of a run have the same format and also contain the state of the training.
"""

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from tinygpt.envelope import FLOATS, KEY, MOST_BYTES, MOST_HEADER, SUPPORTED, read_envelope
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    TinyGPTError,
    cut,
    short,
    show,
    warn,
)
from tinygpt.files import check_path, to_json, write_whole
from tinygpt.fingerprints import EXTERNAL, SYMBOLS, entry_of, fingerprint, tokenizer_of
from tinygpt.layers.linear import skip_init
from tinygpt.models import (
    BigramLanguageModel,
    GPTConfig,
    GPTLanguageModel,
    LanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
)
from tinygpt.models.inspection import check_model, config_of, parts_of
from tinygpt.models.quantising import quantise_layers
from tinygpt.tokenizer import (
    CharTokenizer,
    Tokenizer,
    check_tokenizer,
    check_trained_with,
    first_conflict,
    symbols_of,
)

__all__ = ["load", "save"]

TRAINING = "training/"  # prefix of the names of all tensors that are not weights


def save(path: str | os.PathLike[str], model: LanguageModel, tokenizer: Tokenizer | None = None) -> None:
    """Save a model, and the tokenizer it was trained with, to one file.

    The file is written completely or not at all. When ``save`` returns, the file survives a loss of power; until then
    an older file at the path stays as it was. Equal models give equal bytes.

    Args:
        path: Where to write, by convention ``*.safetensors``.
        model: Any language model. :func:`load` rebuilds a :class:`BigramLanguageModel`, a model that
            :meth:`GPTConfig.build` built, a :class:`NGramLanguageModel`, a :class:`MixtureLanguageModel` of such, and
            the copies of these by :func:`tinygpt.quantised`, from the file alone, unless their parts were changed.
        tokenizer: A :class:`CharTokenizer`, :class:`~tinygpt.symbols.SymbolTokenizer` or
            :class:`~tinygpt.symbols.ByteTokenizer`, which the file contains. Of any other tokenizer the file keeps only
            a fingerprint, by which :func:`load` recognises it.

    Raises:
        InputTypeError: If ``model`` is not a language model, ``tokenizer`` is not a tokenizer, ``path`` is not a path,
            or weights are in 8 bits or complex.
        ConfigError: If the tokenizer has more ids than the model, or several processes share the weights.
        NonFiniteError: If a weight is NaN.
        TokenizerError: If the model was trained with other symbols than those of the tokenizer.
        CheckpointSaveError: If the file cannot be written.

    Example:
        >>> model, tokenizer = BigramLanguageModel(3), CharTokenizer("abc")
        >>> path = getfixture("tmp_path") / "model.safetensors"
        >>> save(path, model, tokenizer)
        >>> load(path)[1] == tokenizer
        True
    """
    check_model("model", model)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    write(check_path("path", path), *pack(model, tokenizer))


def load(
    path: str | os.PathLike[str], *, into: LanguageModel | None = None, tokenizer: Tokenizer | None = None
) -> tuple[LanguageModel, Any]:
    """Load a model and its tokenizer, in evaluation mode and on the CPU.

    Args:
        path: A file that :func:`save` or a :class:`Trainer` wrote.
        into: A model to load the weights into. It is needed for a model that was composed or changed by hand: build
            the model as before and pass it here. It is returned, in its own mode and on its own device.
        tokenizer: The tokenizer that the model was saved or trained with, if the file does not contain it. It is
            compared with the file, and returned.

    Returns:
        The model and the tokenizer; None for the tokenizer if the file has none and none was passed.

    Raises:
        InputTypeError: If ``path`` is not a path, or ``into`` is not a language model.
        CheckpointNotFoundError: If there is no such file.
        CheckpointCorruptError: If :func:`save` did not write the file, or it was changed since.
        CheckpointVersionError: If a newer tinygpt wrote the file.
        CheckpointMismatchError: If the weights do not fit the model, naming those that do not, or ``tokenizer`` is not
            the one of the file.
        CheckpointError: If the path is not that of a regular file, or the file cannot be read.

    Warns:
        UserWarning: If the weights fit ``into``, but the saved model had other parts or settings, or if the file needs
            a tokenizer that it does not contain.
    """
    path = check_path("path", path)
    payload, tensors = read(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
    name = payload["model"]
    if into is None:
        if payload["config"] is None or name not in REBUILT:
            raise CheckpointMismatchError(
                f"{show(path)} contains the weights of a {short(name)} composed or changed by hand; build it again and "
                "use load(path, into=model)"
            )
        model = rebuild(path, name, payload["config"], weights).eval()
    else:
        check_model("into", into)
        if name != type(into).__name__:
            raise CheckpointMismatchError(
                f"{show(path)} contains a {short(name)}, got a {type(into).__name__} to load it into"
            )
        model = into
        check_fit(path, model, weights)
    # Everything in the file is checked before a model that the user passed changes.
    contained, symbols = unpack_tokenizer(path, payload), unpack_symbols(path, payload, model)
    if tokenizer is not None:
        symbols = _check_same_tokenizer(path, payload["tokenizer"], symbols, check_tokenizer(tokenizer))
    elif (entry := payload["tokenizer"]) is not None and entry.get("type") == EXTERNAL:
        warn(
            f"{show(path)} was saved with the tokenizer {short(entry['name'])} of {entry['vocab_size']} ids, which it "
            "does not contain; use load(path, tokenizer=tokenizer)"
        )
    if into is not None:
        then, now = (payload["parts"], parts_of(model)) if payload["parts"] else (payload["config"], config_of(model))
        if then and now and (changes := "; ".join(differences(then, now).values())):
            warn(f"{show(path)} was saved with other parts of the same shapes: {cut(changes)}")
        model.load_state_dict(weights, strict=False)  # names were checked; of tied weights the file has one
    model.trained_symbols = symbols
    return model, contained if tokenizer is None else tokenizer


def pack(
    model: LanguageModel, tokenizer: Tokenizer | None, weights: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a copy of a model's weights, and the payload that describes it.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        weights: Weights to copy in place of those of the model, each once.

    Raises:
        ConfigError: If the tokenizer has more ids than the model, or a weight is not in the memory of this process.
        InputTypeError: If weights are in 8 bits or complex.
        NonFiniteError: If a weight is NaN.
        TokenizerError: If the model was trained with other symbols than those of the tokenizer.
    """
    if tokenizer is not None:
        check_trained_with(model, tokenizer)
    weights = distinct(model) if weights is None else weights
    for name, tensor in weights.items():
        if tensor.dtype not in SUPPORTED:
            raise InputTypeError(
                f"weights must be in float64, float32, bfloat16 or float16, buffers also in integers, to be saved, got "
                f"{tensor.dtype} in {name}; use model.float()"
            )
        if tensor.numel() and not tensor.data_ptr():
            raise ConfigError(
                f"weights must be in the memory of this process to be saved, got {short(name)} without memory; if "
                "several processes share the model, use the best.safetensors that Trainer(..., run_dir=...) writes"
            )
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    if spoilt := _first_nan(weights):
        raise NonFiniteError(f"weights must not be NaN to be saved, got NaN in {spoilt}; an older file is unchanged")
    entry: dict[str, Any] | None = None
    if tokenizer is not None:
        entry = entry_of(tokenizer)
    elif model.trained_symbols is not None:
        entry = {"type": SYMBOLS, "symbols": list(model.trained_symbols)}
    config = config_of(model)
    payload = {
        "format": 2 if entry and ("end" in entry or entry["type"] not in (CharTokenizer.__name__, SYMBOLS)) else 1,
        "model": type(model).__name__,
        "config": config,
        "parts": parts_of(model) if config is None else None,
        "tokenizer": entry,
        "training": None,
    }
    return weights, payload


def unpack_tokenizer(path: Path, payload: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer that a file contains, or None.

    Raises:
        CheckpointCorruptError: If the tokenizer is invalid.
    """
    try:
        return None if payload["tokenizer"] is None else tokenizer_of(payload["tokenizer"])
    except TinyGPTError as error:
        raise CheckpointCorruptError(f"{show(path)} contains an invalid tokenizer: {error}") from error


def unpack_symbols(path: Path, payload: Mapping[str, Any], model: LanguageModel) -> tuple[str | None, ...] | None:
    """Return the symbols that the model of a file was trained with, or None.

    Raises:
        CheckpointCorruptError: If they are not texts, or more than the model has ids, or the tokenizer is invalid.
    """
    entry = payload["tokenizer"]
    if entry is None:
        return None
    if entry.get("type") == EXTERNAL:
        name, size = entry.get("name"), entry.get("vocab_size")
        if not isinstance(name, str) or type(size) is not int or not 0 < size <= model.vocab_size:
            raise CheckpointCorruptError(
                f"{show(path)} must contain the name and size of a tokenizer, got {short(entry)}"
            )
        return None
    if (tokenizer := unpack_tokenizer(path, payload)) is not None:
        symbols = symbols_of(tokenizer)
    else:
        symbols = entry.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(symbol, str | None) for symbol in symbols):
            raise CheckpointCorruptError(f"{show(path)} must contain the text of each id, got {short(symbols)}")
    if len(symbols) > model.vocab_size:
        raise CheckpointCorruptError(
            f"{show(path)} contains the symbols of {len(symbols)} ids for a model of {model.vocab_size}"
        )
    return tuple(symbols)


def _check_same_tokenizer(
    path: Path, entry: Mapping[str, Any] | None, symbols: tuple[str | None, ...] | None, tokenizer: Tokenizer
) -> tuple[str | None, ...] | None:
    """Return the symbols of a tokenizer if it is the one of a file, or the file has none.

    Raises:
        CheckpointMismatchError: If it is another one.
    """
    if entry is None:
        return None
    if symbols is None and (got := fingerprint(tokenizer)) != entry:
        raise CheckpointMismatchError(
            f"tokenizer must be the one that {show(path)} was saved with, {short(entry['name'])} of "
            f"{entry['vocab_size']} ids, got {short(got['name'])} of {got['vocab_size']} ids, which gives other ids or "
            "texts"
        )
    now = symbols_of(tokenizer)
    if symbols is not None and (conflict := first_conflict(symbols, now)):
        id, theirs, ours = conflict
        raise CheckpointMismatchError(
            f"tokenizer must be the one that {show(path)} was saved with, got {ours} as id {id} where it has {theirs}"
        )
    return now


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries that changed, by name, each with a description."""
    return {
        name: f"{name}={short(now.get(name))} (checkpoint has {short(then.get(name))})"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    }


def rebuild(path: Path, name: str, config: dict[str, Any], weights: Mapping[str, Tensor]) -> LanguageModel:
    """Build the model that a file describes around the weights of the file.

    The initial weights are not drawn. The blocks are built only if the file has enough weights for them, so that a
    small file that describes a huge model costs little.
    """
    try:
        model = REBUILT[name](path, config, weights)
        if integers := [name for name, tensor in weights.items() if tensor.dtype == torch.int8]:
            quantise_layers(model, _empty_rows, only=integers)
    except CheckpointError:  # of a part
        raise
    except (TinyGPTError, ValueError, TypeError, LookupError, RuntimeError) as error:  # a RuntimeError without memory
        raise CheckpointCorruptError(f"{show(path)} contains invalid settings: {cut(str(error))}") from error
    check_fit(path, model, weights, any_float=True)
    if name in (BigramLanguageModel.__name__, GPTLanguageModel.__name__):
        _assign(path, model, weights)
    return model


def _empty_bigram(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LanguageModel:
    with skip_init():
        return BigramLanguageModel(**config)


def _empty_gpt(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LanguageModel:
    settings = GPTConfig.from_dict(config)
    _check_blocks(settings, weights)
    with skip_init():
        return settings.build()


def _table(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LanguageModel:
    levels = _numbered(weights, "levels")
    return NGramLanguageModel(config["vocab_size"], levels=[levels[str(k)] for k in range(config["order"])])


def _mixture(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LanguageModel:
    parts = _numbered(weights, "models")
    models = [rebuild(path, each["model"], each["config"], parts[str(k)]) for k, each in enumerate(config["models"])]
    return MixtureLanguageModel(models, weights=config["weights"])


REBUILT = {  # the models that a file rebuilds alone
    BigramLanguageModel.__name__: _empty_bigram,
    GPTLanguageModel.__name__: _empty_gpt,
    NGramLanguageModel.__name__: _table,
    MixtureLanguageModel.__name__: _mixture,
}


def _empty_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))


def _numbered(weights: Mapping[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """Return the tensors ``prefix.number.name`` by number and name."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        start, _, rest = name.partition(".")
        number, _, own = rest.partition(".")
        if start == prefix:
            groups.setdefault(number, {})[own] = tensor
    return groups


def _assign(path: Path, model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Make the weights of a file the parameters of a model, without a copy."""
    shared: dict[int, Tensor] = {}
    dtypes = set()
    for name, tensor in distinct(model).items():
        if not isinstance(tensor, nn.Parameter):
            shared[id(tensor)] = weights[name]
        elif tensor.is_floating_point():
            shared[id(tensor)] = nn.Parameter(weights[name], tensor.requires_grad)
            dtypes.add(str(weights[name].dtype))
        else:
            shared[id(tensor)] = nn.Parameter(weights[name].clone(), False)  # where a CPU can read it at once
    if len(dtypes) > 1:
        raise CheckpointMismatchError(
            f"{show(path)} must contain weights of one dtype, got {', '.join(sorted(dtypes))}; build the model and use "
            "load(path, into=model)"
        )
    state = {name: shared[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    model.load_state_dict(state, assign=True)


def _check_blocks(config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    # In every layout a block has 4 matrices and 12 * n_embd**2 weights, or more.
    sizes = [tensor.numel() for name, tensor in weights.items() if name.startswith("blocks.")]
    tensors, numbers = 4 * config.n_layer, 12 * config.n_layer * config.n_embd**2
    if len(sizes) < tensors or sum(sizes) < numbers:
        raise ConfigError(
            f"n_layer={config.n_layer} and n_embd={config.n_embd} need at least {tensors} tensors of {numbers} weights "
            f"in blocks, got {len(sizes)} of {sum(sizes)}"
        )


def distinct(model: LanguageModel) -> dict[str, Tensor]:
    """Return the weights of a model by name, each of them once.

    Tied weights have the first of their names in alphabetical order.

    Raises:
        InputTypeError: If the state of the model contains anything but tensors.
    """
    tensors, seen = {}, set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not isinstance(tensor, Tensor):
            raise InputTypeError(
                f"the state of a model must contain only tensors, got {short(tensor)} as {name}; return a tensor from "
                "get_extra_state"
            )
        pointer = tensor.data_ptr()  # 0 without elements, and where several processes share them
        memory = (tensor.device, pointer, tensor.shape, tensor.stride()) if pointer else id(tensor)
        if memory not in seen:
            tensors[name] = tensor
        seen.add(memory)
    return tensors


def check_fit(path: Path, model: LanguageModel, weights: Mapping[str, Tensor], *, any_float: bool = False) -> None:
    """Raise unless a file has exactly the weights that a model needs.

    Raises:
        CheckpointMismatchError: Naming each weight that does not fit.
    """
    expected = distinct(model)
    wrong = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    wrong += [f"{short(name)} is not in the model" for name in weights.keys() - expected.keys()]
    for name in expected.keys() & weights.keys():
        found, wanted = weights[name], expected[name]
        dtype_fits = found.dtype == wanted.dtype or (any_float and found.dtype in FLOATS and wanted.dtype in FLOATS)
        if found.shape != wanted.shape or not dtype_fits:
            shapes = short(tuple(found.shape)), short(tuple(wanted.shape))
            wrong.append(f"{name} is {shapes[0]} {found.dtype}, expected {shapes[1]} {wanted.dtype}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:4])
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointMismatchError(f"{show(path)} does not fit the model: {shown}{more}")


def write(path: Path, tensors: Mapping[str, Tensor], payload: Mapping[str, Any]) -> str:
    """Write tensors and a payload to a self-verifying file, and return their digest.

    Raises:
        CheckpointSaveError: If the file cannot be written; the message has the bytes needed and those free.
    """
    if (size := sum(tensor.nbytes for tensor in tensors.values())) > MOST_BYTES:
        raise CheckpointSaveError(
            errno.EFBIG,
            f"cannot write {show(path)}: its tensors have {size:,} bytes, more than the {MOST_BYTES:,} that can be "
            "read back; an older file is unchanged",
        )
    digest = _digest(tensors, payload)
    envelope = {"payload": payload, "sha256": digest}
    raw = save_tensors(dict(tensors), metadata={KEY: to_json(envelope)})
    if (header := int.from_bytes(raw[:8], "little")) > MOST_HEADER:
        raise CheckpointSaveError(
            errno.EFBIG,
            f"cannot write {show(path)}: the names of its tensors and its settings need {header:,} bytes, more than "
            f"the {MOST_HEADER:,} that can be read back; an older file is unchanged",
        )
    try:
        write_whole(path, raw)
    except OSError as error:
        message = f"cannot write {show(path)}: {error.strerror or error}; it needs {len(raw):,} bytes"
        if path.parent.is_dir():
            message += f", {shutil.disk_usage(path.parent).free:,} are free"
        raise CheckpointSaveError(error.errno, f"{message}; an older file is unchanged") from error
    return digest


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file once, verify it, and return its payload and tensors.

    Raises:
        CheckpointNotFoundError: If there is no such file.
        CheckpointCorruptError: If :func:`write` did not write the file, or it was changed since.
        CheckpointVersionError: If a newer tinygpt wrote the file.
        CheckpointError: If it is not a regular file, is larger than memory, or cannot be read.
    """
    payload, tensors, _ = read_with_digest(path)
    return payload, tensors


def read_with_digest(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Read a file once, verify it as :func:`read` does, and return its payload, tensors and digest."""
    payload, recorded, tensors = read_envelope(path)
    if (digest := _digest(tensors, payload)) != recorded:
        raise CheckpointCorruptError(
            f"{show(path)} was changed after it was written: its sha256 starts with {digest[:12]}, expected "
            f"{recorded[:12]!r}; use another copy"
        )
    if spoilt := _first_nan(tensors):
        raise CheckpointCorruptError(f"{show(path)} contains NaN in {short(spoilt)}; use another copy")
    return payload, tensors, digest


def _digest(tensors: Mapping[str, Tensor], payload: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(to_json(payload).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(to_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_nan(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with NaN, or an empty string."""
    for name, tensor in tensors.items():
        # infinite weights may be meant: the logarithm of 0
        if tensor.is_floating_point() and tensor.numel() and math.isnan(float(tensor.sum())) and tensor.isnan().any():
            return name
    return ""
