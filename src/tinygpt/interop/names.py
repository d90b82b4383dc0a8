"""The tensors of a GPT-2 under the names of tinygpt, of GPT-2 itself and of GGUF."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tinygpt.checkpoint import pack, rebuild
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    TokenizerError,
    short,
    show,
)
from tinygpt.files import write_whole
from tinygpt.models import GPTConfig, GPTLanguageModel, LanguageModel
from tinygpt.models.inspection import check_floating, check_model
from tinygpt.tokenizer import CharTokenizer, Tokenizer

# here, in GPT-2, in GGUF; the LM head and the embedding are one tensor, kept under its first name
_OUTSIDE = (("head", "wte", "token_embd"), ("positions.table", "wpe", "position_embd"), ("norm", "ln_f", "output_norm"))
_BLOCK = (
    ("attention_norm", "ln_1", "attn_norm"),
    ("attention.qkv", "attn.c_attn", "attn_qkv"),
    ("attention.output", "attn.c_proj", "attn_output"),
    ("feed_forward_norm", "ln_2", "ffn_norm"),
    ("feed_forward.expand", "mlp.c_fc", "ffn_up"),
    ("feed_forward.output", "mlp.c_proj", "ffn_down"),
)
_OLD_MASKS = (".attn.bias", ".attn.masked_bias")  # which older versions kept as buffers
_REASONS = {"modern": "whose query and key norms", "notebook": "whose LM head has a bias that"}


def names_in(program: Literal["gpt2", "gguf"], n_layer: int) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor here, and its name in another program."""
    for ours, gpt2, gguf in _OUTSIDE:
        theirs = gpt2 if program == "gpt2" else gguf
        yield f"{ours}.weight", f"{theirs}.weight"
        if ours == "norm":
            yield f"{ours}.bias", f"{theirs}.bias"
    for layer in range(n_layer):
        for ours, gpt2, gguf in _BLOCK:
            theirs = f"h.{layer}.{gpt2}" if program == "gpt2" else f"blk.{layer}.{gguf}"
            for kind in ("weight", "bias"):
                yield f"blocks.{layer}.{ours}.{kind}", f"{theirs}.{kind}"


def unpack_model(
    model: LanguageModel, tokenizer: Tokenizer | None, program: str
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Return the config and a copy of the weights of a model that another program can hold.

    Raises:
        InputTypeError: If ``model`` is not a language model or is quantised, or ``tokenizer`` is neither a
            :class:`CharTokenizer` nor None.
        ConfigError: If the model is not one of the layouts ``"gpt2"`` and ``"nanogpt"``, or the tokenizer has more ids.
        NonFiniteError: If a weight is NaN.
        TokenizerError: If the model was trained with other symbols than those of the tokenizer.
    """
    check_model("model", model)
    check_floating("model", model, f"written for {program}")
    if tokenizer is not None and not isinstance(tokenizer, CharTokenizer):
        raise InputTypeError(
            f"tokenizer must be a CharTokenizer or None for {program}, got {type(tokenizer).__name__}; "
            "save it with its own library"
        )
    weights, payload = pack(model, tokenizer)
    if payload["config"] is None or not isinstance(model, GPTLanguageModel):
        parts = "parts of your own" if isinstance(model, GPTLanguageModel) else f"a {type(model).__name__}"
        raise ConfigError(f"model must be built from a GPTConfig, got {parts}; use GPTConfig.gpt2(...).build()")
    config = GPTConfig.from_dict(payload["config"])
    if reason := _REASONS.get(config.layout):
        raise ConfigError(
            f"layout must be 'gpt2' or 'nanogpt' for {program}, got {config.layout!r}, {reason} no GPT-2 has; train "
            "with layout='gpt2'"
        )
    if "token_embedding.weight" in weights:
        raise ConfigError("head.weight must be token_embedding.weight itself, got two tensors; tie them again")
    return config, weights


def build_model(path: Path, config: GPTConfig, tensors: Mapping[str, Any]) -> GPTLanguageModel:
    """Build the model of a config around the tensors of a GPT-2, which has no transposed weights.

    Args:
        path: Where the tensors come from, for messages.
        config: The sizes and the layout.
        tensors: The tensors by their names in GPT-2, with or without a prefix. Missing biases are zero.

    Raises:
        CheckpointMismatchError: If a tensor does not fit, or the LM head is not tied to the embedding.
        CheckpointCorruptError: If a tensor is not one, or contains NaN.
    """
    n_layer = min(config.n_layer, len(tensors))  # a small file that describes a huge model costs little
    ours = {theirs: name for name, theirs in names_in("gpt2", n_layer)}
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or (tensor.is_floating_point() and bool(tensor.isnan().any())):
            raise CheckpointCorruptError(f"{show(path)} must contain tensors without NaN, got {short(name)} otherwise")
        plain = str(name).removeprefix("_orig_mod.").removeprefix("transformer.")
        if not plain.endswith(_OLD_MASKS):
            weights[ours.get(plain, plain)] = tensor.detach().cpu().clone().contiguous()
    head = weights.pop("lm_head.weight", None)
    if head is not None and not torch.equal(weights.setdefault("head.weight", head), head):
        raise CheckpointMismatchError(
            f"{show(path)} must have the LM head tied to the embedding, got lm_head.weight unlike wte.weight"
        )
    for name in ours.values():
        weight = weights.get(name.replace(".bias", ".weight"))
        if name not in weights and name.endswith(".bias") and weight is not None and weight.ndim:
            weights[name] = weight.new_zeros(len(weight))
    model = rebuild(path, "GPTLanguageModel", config.to_dict(), weights)
    assert isinstance(model, GPTLanguageModel)
    return model.eval()


def write_file(path: Path, raw: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        CheckpointSaveError: If it cannot be written.
    """
    try:
        write_whole(path, raw)
    except OSError as error:
        message = f"cannot write {show(path)}: {error.strerror or error}; an older file is unchanged"
        raise CheckpointSaveError(error.errno, message) from error


def check_utf8(tokenizer: CharTokenizer, program: str) -> None:
    """Raise :class:`TokenizerError` if a symbol is a lone surrogate, which UTF-8 cannot encode."""
    for symbol in tokenizer.symbols:
        if "\ud800" <= symbol <= "\udfff":
            raise TokenizerError(
                f"symbols must be encodable in UTF-8 for {program}, got the lone surrogate {symbol!r}; train on a text "
                "without it"
            )
