"""The verbs that exchange models with other programs: export and import."""

from typing import Annotated, Literal

from tyro.conf import Positional, arg

from tinygpt.cli.messages import note
from tinygpt.cli.paths import existing, model_file
from tinygpt.cli.reading import show
from tinygpt.errors import ConfigError

Model = Annotated[Positional[str], arg(metavar="MODEL")]


def export(
    model: Model,
    dest: Annotated[Positional[str], arg(metavar="DEST")],
    *,
    to: Literal["huggingface", "gguf", "onnx"],
    end_id: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: that of the tokenizer)")] = None,
) -> int:
    """Save a model for another program.

    Args:
        model: A model file, or the directory of a run.
        dest: The folder or file to write.
        to: The format: a folder of Hugging Face, a GGUF file for llama.cpp and ollama, or an ONNX file.
        end_id: The id at which llama.cpp ends a text.
    """
    from tinygpt import CharTokenizer, interop, load

    if end_id is not None and to != "gguf":
        raise ConfigError(f"--end-id is for --to gguf, got --to {to}; leave it out")
    built, tokenizer = load(model_file(model))
    if to == "huggingface":
        if tokenizer is not None and not isinstance(tokenizer, CharTokenizer):
            note(f"{dest} has no tokenizer: only a CharTokenizer has a form there, got {type(tokenizer).__name__}")
            tokenizer = None
        interop.save_huggingface(dest, built, tokenizer)
    elif to == "onnx":
        interop.save_onnx(dest, built)
    elif tokenizer is None:
        raise ConfigError(f"the model must have its tokenizer for --to {to}, got a file without one")
    else:
        interop.save_gguf(dest, built, tokenizer, end_id=end_id)
    show(f"{dest}\n")
    return 0


def import_(
    folder: Annotated[Positional[str], arg(metavar="DIR")],
    *,
    output: Annotated[str, arg(aliases=["-o"], metavar="FILE")],
) -> int:
    """Save a GPT-2 of Hugging Face as a model file.

    Args:
        folder: The folder, with config.json and model.safetensors.
        output: The model file to write.
    """
    from tinygpt import CharTokenizer, interop, save

    model, tokenizer = interop.load_huggingface(existing(folder))
    save(output, model, tokenizer)
    if not isinstance(tokenizer, CharTokenizer):
        note(f"{output} has no tokenizer; use it in Python, with load({output!r}, tokenizer=...)")
    show(f"{output}\n")
    return 0
