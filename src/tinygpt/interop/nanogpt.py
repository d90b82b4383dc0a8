"""Load a checkpoint of nanoGPT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygpt.errors import CheckpointMismatchError, InputTypeError, TinyGPTError, listed, short
from tinygpt.interop.names import build_model
from tinygpt.models import GPTConfig, GPTLanguageModel

_SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
_SOURCE = Path("checkpoint")


def load_nanogpt(checkpoint: Mapping[str, Any]) -> GPTLanguageModel:
    """Return the model of a checkpoint of nanoGPT, in evaluation mode and on the CPU.

    The model has ``layout="nanogpt"`` and gives the logits of nanoGPT. A checkpoint that was trained with
    ``bias=False`` gets biases of zero, which further training changes.

    For a model of characters, ``CharTokenizer.from_text(text)`` of the same text has the ids of its ``meta.pkl``.

    Args:
        checkpoint: The loaded mapping, not a path, since tinygpt opens no pickle:
            ``torch.load("ckpt.pt", map_location="cpu", weights_only=True)``.

    Raises:
        InputTypeError: If it is not the mapping that nanoGPT saves.
        CheckpointMismatchError: If a size is missing or invalid, or a tensor does not fit the sizes.
        CheckpointCorruptError: If a tensor contains NaN.

    Source:
        https://github.com/karpathy/nanoGPT
    """
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(checkpoint.get(part), Mapping) for part in ("model", "model_args")
    ):
        raise InputTypeError(
            "checkpoint must be the mapping that nanoGPT saves, with model and model_args, got "
            f"{short(checkpoint)}; use torch.load(path, map_location='cpu', weights_only=True)"
        )
    settings = checkpoint["model_args"]
    if missing := [name for name in _SIZES if name not in settings]:
        raise CheckpointMismatchError(f"model_args must have {listed(missing)}, got {short(sorted(settings))}")
    sizes = {name: settings[name] for name in _SIZES}
    try:
        config = GPTConfig(layout="nanogpt", dropout=settings.get("dropout", 0.0), **sizes)
    except TinyGPTError as error:
        raise CheckpointMismatchError(f"model_args must describe a model: {error}") from error
    return build_model(_SOURCE, config, checkpoint["model"])
