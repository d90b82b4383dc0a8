"""Save and load a GPT-2 in the format of Hugging Face, a folder of files.

None of its functions needs transformers. Two things differ there. GPT-2's linear layers are stored transposed, and a
loss of transformers shifts the labels itself.

Source:
    https://github.com/huggingface/transformers
"""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tinygpt.envelope import MOST_BYTES
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    ConfigError,
    TinyGPTError,
    cut,
    short,
    show,
    warn,
)
from tinygpt.files import check_path, parse_json, read_whole, to_json, write_whole
from tinygpt.interop.names import build_model, names_in, unpack_model
from tinygpt.interop.tokenizer_json import read_tokenizer, to_huggingface
from tinygpt.models import GPTConfig, GPTLanguageModel, LanguageModel
from tinygpt.tokenizer import CharTokenizer, Tokenizer, end_id_of

_MOST_JSON = 1 << 28  # bytes of a settings file; the largest are vocabularies
_ACTIVATIONS = {"gelu_new": "gpt2", "gelu_pytorch_tanh": "gpt2", "gelu": "nanogpt"}
_SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "block_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
_DROPOUTS = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
# The settings that change what a GPT-2 computes, with the only values that tinygpt has.
_FIXED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
_CARD = """---
library_name: transformers
pipeline_tag: text-generation
---

# A small GPT-2

{about}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
ids = tokenizer("{prompt}", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, do_sample=True)[0]))
```

It reads at most {block_size} tokens. `generate` stops there, and a larger `max_new_tokens` raises an IndexError.
"""


def save_huggingface(folder: str | os.PathLike[str], model: LanguageModel, tokenizer: Tokenizer | None = None) -> None:
    """Save a model and its tokenizer as a folder that transformers loads.

    ``AutoModelForCausalLM.from_pretrained(folder)`` and ``AutoTokenizer.from_pretrained(folder)`` load it. Each file is
    written completely or not at all, ``config.json`` last.

    Args:
        folder: The folder, which is created if needed.
        model: A model of ``layout="gpt2"`` or ``"nanogpt"`` that :meth:`GPTConfig.build` built.
        tokenizer: A :class:`CharTokenizer` or None.

    Raises:
        InputTypeError: If an argument has the wrong type.
        ConfigError: If GPT-2 cannot hold the model, or the folder has a tokenizer and ``tokenizer`` is None.
        TokenizerError: If the model was trained with other symbols, or a symbol is a lone surrogate.
        NonFiniteError: If a weight is NaN.
        CheckpointSaveError: If a file cannot be written.

    Example:
        >>> tokenizer = CharTokenizer.from_text("to be, or not to be")
        >>> config = GPTConfig.gpt2(vocab_size=8, block_size=16, n_layer=1, n_head=2, n_embd=8)
        >>> folder = getfixture("tmp_path") / "model"
        >>> save_huggingface(folder, config.build(seed=0), tokenizer)
        >>> sorted(path.name for path in folder.iterdir())[:3]
        ['README.md', 'config.json', 'generation_config.json']
    """
    path = check_path("folder", folder)
    config, weights = unpack_model(model, tokenizer, "a Hugging Face folder")
    files: dict[str, bytes] = {}
    if isinstance(tokenizer, CharTokenizer):
        files["tokenizer.json"] = to_huggingface(tokenizer).encode()
        options = {"clean_up_tokenization_spaces": False, "model_max_length": config.block_size}
        files["tokenizer_config.json"] = to_json({"tokenizer_class": "PreTrainedTokenizerFast"} | options).encode()
    elif (path / "tokenizer.json").exists():
        raise ConfigError(f"folder must not contain another tokenizer, got {show(path / 'tokenizer.json')}; remove it")
    tensors = {f"transformer.{theirs}": weights[ours] for ours, theirs in names_in("gpt2", config.n_layer)}
    tensors = {name: tensor.T.contiguous() if _is_transposed(name) else tensor for name, tensor in tensors.items()}
    end = None if tokenizer is None else end_id_of(tokenizer)
    files["model.safetensors"] = save_tensors(tensors, metadata={"format": "pt"})
    files["generation_config.json"] = to_json(
        {"max_length": config.block_size, "bos_token_id": None, "eos_token_id": end}
    ).encode()
    files["README.md"] = _card(config, tokenizer).encode()
    files["config.json"] = to_json(_settings(config, weights, end)).encode()
    for name, raw in files.items():
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / name, raw)
        except OSError as error:
            message = f"cannot write {show(path / name)}: {error.strerror or error}; the folder is incomplete"
            raise CheckpointSaveError(error.errno, message) from error


def load_huggingface(folder: str | os.PathLike[str]) -> tuple[GPTLanguageModel, Tokenizer | None]:
    """Load a GPT-2 and its tokenizer from a local folder, in evaluation mode and on the CPU.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``, as transformers and :func:`save_huggingface`
            write it.

    Returns:
        The model, of ``layout="gpt2"`` or ``"nanogpt"``, and the tokenizer. This is a :class:`CharTokenizer` where
        each token is a character, and else an :class:`AdaptedTokenizer`, which needs the package tokenizers. It is None
        if it is missing or cannot be read.

    Raises:
        InputTypeError: If ``folder`` is not a path.
        ConfigError: If it is not a local directory.
        CheckpointNotFoundError: If a file is missing.
        CheckpointMismatchError: If it is another kind of model, or a tensor does not fit the settings.
        CheckpointCorruptError: If a file is corrupt.

    Warns:
        UserWarning: If there is a tokenizer that cannot be read, or that needs the package.
    """
    path = check_path("folder", folder)
    if not path.is_dir():
        raise ConfigError(f"folder must be a local directory, got {short(str(folder))}; download it first")
    config, end_id = _read_settings(path / "config.json")
    if not (path / "model.safetensors").is_file():
        raise CheckpointNotFoundError(_describe_other_files(path))
    try:
        tensors = load_tensors(_read(path / "model.safetensors", MOST_BYTES))
    except SafetensorError as error:
        raise CheckpointCorruptError(f"{show(path / 'model.safetensors')} is corrupt: {cut(str(error))}") from error
    tensors = {name: tensor.T if _is_transposed(name) else tensor for name, tensor in tensors.items()}
    model, file = build_model(path, config, tensors), path / "tokenizer.json"
    return model, read_tokenizer(file, _read(file), end_id) if file.exists() else None


def _is_transposed(name: str) -> bool:
    return name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


def _settings(config: GPTConfig, weights: dict[str, Tensor], end: int | None) -> dict[str, Any]:
    activation = next(name for name, layout in _ACTIVATIONS.items() if layout == config.layout)
    sizes = {theirs: getattr(config, ours) for theirs, ours in _SIZES.items()}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": activation,
        "bos_token_id": None,
        "eos_token_id": end,  # the default of transformers is outside a small vocabulary
        "torch_dtype": str(weights["head.weight"].dtype).removeprefix("torch."),
        **_FIXED,
        **sizes,
        **dict.fromkeys(_DROPOUTS, config.dropout),
    }


def _card(config: GPTConfig, tokenizer: Tokenizer | None) -> str:
    about = f"A GPT-2 with {config.n_layer} layers of width {config.n_embd}, trained with tinygpt."
    if isinstance(tokenizer, CharTokenizer):
        about += f" A token is a character, one of {tokenizer.vocab_size}."
        letters = [symbol for symbol in tokenizer.symbols if symbol.isalpha()]
        return _CARD.format(about=about, prompt=(letters or ["..."])[0], block_size=config.block_size)
    return _CARD.format(about=f"{about} It has no tokenizer.", prompt="...", block_size=config.block_size)


def _read(path: Path, most: int = _MOST_JSON) -> bytes:
    try:
        return read_whole(path, most)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"there is no file {show(path)}; use a folder that has it") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {show(path)}: {error}") from error


def _read_settings(path: Path) -> tuple[GPTConfig, int | None]:
    """Return the config and the id of the end of a text that ``config.json`` describes."""
    try:
        settings = parse_json(_read(path))
        if not isinstance(settings, dict):
            raise ValueError(f"it must be an object, got {short(settings)}")
    except ValueError as error:
        raise CheckpointCorruptError(f"{show(path)} is not a JSON file: {cut(str(error))}") from error
    wrong = {name: value for name, value in _FIXED.items() if settings.get(name, value) != value}
    rules = {name: f"{name} {value!r}" for name, value in _FIXED.items()}
    if settings.get("n_inner") not in (None, 4 * settings.get("n_embd", 0)):
        wrong["n_inner"], rules["n_inner"] = None, "n_inner 4 * n_embd"
    activation = settings.get("activation_function", "gelu_new")
    if activation not in _ACTIVATIONS:
        wrong["activation_function"] = None
        rules["activation_function"] = f"activation_function one of {', '.join(map(repr, _ACTIVATIONS))}"
    if wrong:
        name = next(iter(wrong))
        raise CheckpointMismatchError(f"{show(path)} must have {rules[name]}, got {short(settings.get(name))}")
    if missing := [name for name in _SIZES if name not in settings]:
        raise CheckpointMismatchError(f"{show(path)} must have {', '.join(missing)}")
    dropouts = {settings.get(name, 0.1) for name in _DROPOUTS}
    if len(dropouts) > 1:
        warn(f"tinygpt has one dropout, got {sorted(dropouts)} in {show(path)}; it uses resid_pdrop")
    try:
        config = GPTConfig(
            layout=_ACTIVATIONS[activation],  # type: ignore[arg-type] # the layouts of the table
            dropout=settings.get("resid_pdrop", 0.1),
            **{ours: settings[theirs] for theirs, ours in _SIZES.items()},
        )
    except TinyGPTError as error:
        raise CheckpointMismatchError(f"{show(path)} contains invalid settings: {error}") from error
    end_id = settings.get("eos_token_id")
    return config, end_id if isinstance(end_id, int) else None


def _describe_other_files(path: Path) -> str:
    """Return a message about a folder without ``model.safetensors``."""
    names = sorted(each.name for each in path.iterdir())
    if any(name.endswith(".safetensors.index.json") for name in names):
        return f"{show(path)} must have one model.safetensors, got shards; save it again with max_shard_size='100GB'"
    if any(name.endswith((".bin", ".h5", ".msgpack", ".pt")) for name in names):
        return (
            f"{show(path)} must have model.safetensors, got other formats, which tinygpt does not open; load it in "
            "transformers and use model.save_pretrained(folder)"
        )
    return f"{show(path)} must have model.safetensors, got {short(names)}"
