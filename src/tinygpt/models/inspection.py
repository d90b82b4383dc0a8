"""Recognise a language model, say what anything else looks like, and describe a model by its settings or parts."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from tinygpt.errors import InputTypeError, short
from tinygpt.models.base import LanguageModel
from tinygpt.models.bigram import BigramLanguageModel
from tinygpt.models.config import GPTConfig
from tinygpt.models.gpt import GPTLanguageModel
from tinygpt.models.mixture import MixtureLanguageModel
from tinygpt.models.ngram import NGramLanguageModel

Kind = TypeVar("Kind", bound=nn.Module)

_STATE = ("training", "trained_symbols", "config", "built_as")  # attributes that are not settings


def check_model(name: str, model: Any) -> None:
    """Raise :class:`InputTypeError` unless ``model`` is a language model, and say how to get one."""
    if not isinstance(model, LanguageModel):
        kind, way = _described(model)
        raise InputTypeError(f"{name} must be a LanguageModel, got {kind}; {way}")
    # a lazy layer has no shape before its first call
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters()):
        raise InputTypeError(f"{name} must have all its parameters, got some without a shape; call it once on some ids")


def check_floating(name: str, model: nn.Module, use: str) -> None:
    """Raise :class:`InputTypeError` if a model is quantised, which rules out a use, such as "trained"."""
    if any(parameter.dtype == torch.int8 for parameter in model.parameters()):
        raise InputTypeError(
            f"{name} must have weights in floating point to be {use}, got a quantised one with int8 weights; use the "
            "model that it was made from"
        )


def _described(model: Any) -> tuple[str, str]:
    """Return the kind of an object that is not a language model, and how to get a model from it."""
    kind = type(model).__name__
    if isinstance(model, type):
        return f"the class {model.__name__}", f"make a model of it, e.g. {model.__name__}(...) or config.build()"
    if isinstance(model, nn.Module):
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            inner = "the model itself, which is its _orig_mod"
            return f"a compiled model ({kind})", f"pass {inner}, and compile=True to TrainerConfig or Sampler"
        if isinstance(getattr(model, "module", None), LanguageModel):
            return f"a wrapper ({kind})", "pass the model itself, which is its .module; a run is one process"
        if any(base.__module__.startswith("transformers.") for base in type(model).__mro__):
            way = "compute_logits returns model(idx).logits"
            return f"a model of transformers ({kind})", f"wrap it in a subclass of LanguageModel whose {way}"
        way = "inherit from LanguageModel instead of nn.Module and name the logits in compute_logits"
        return kind, way
    if isinstance(model, Mapping) and model and all(isinstance(value, Tensor) for value in model.values()):
        return "a state_dict", "build the model, then model.load_state_dict(state_dict)"
    if isinstance(model, str | os.PathLike):
        return short(str(model)), "load the file first, model, tokenizer = tinygpt.load(path)"
    if isinstance(model, Mapping | list | tuple):
        if any(isinstance(value, LanguageModel) for value in (model.values() if isinstance(model, Mapping) else model)):
            several = "or several by name with compare({...})"
            return f"a {kind}", f"pass one model, as in model, tokenizer = tinygpt.load(path), {several}"
    elif isinstance(model, GPTConfig):
        return "a GPTConfig", "build the model, config.build()"
    elif isinstance(getattr(model, "model", None), LanguageModel):
        return f"a {kind}", "pass its .model"
    elif isinstance(getattr(model, "model", None), GPTConfig):
        return kind, "use its parts, as in plan(advice.model, advice.config); advice.model.build() is a model"
    elif callable(model):
        return f"the function {getattr(model, '__name__', kind)}", "call it and pass the model that it returns"
    return kind, "use GPTConfig(vocab_size=...).build(); the model comes first"


def parts_of(model: nn.Module) -> dict[str, str]:
    """Return the class and the plain settings of each module of a model, by name.

    A replaced part then shows, even one without weights, such as an activation.
    """
    parts = {}
    for name, part in model.named_modules():
        parts[name or "model"] = type(part).__name__
        for setting, value in vars(part).items():
            if setting[0] != "_" and setting not in _STATE and (text := _in_words(value)):
                parts[f"{name}.{setting}" if name else setting] = text
    return parts


def config_of(model: LanguageModel) -> dict[str, Any] | None:
    """Return the settings that rebuild a model, or None.

    A model that was composed or changed by hand cannot be rebuilt.
    """
    if _is_exactly(model, BigramLanguageModel):
        return {"vocab_size": model.vocab_size}
    if _is_exactly(model, NGramLanguageModel):
        return {"vocab_size": model.vocab_size, "order": model.order}
    if _is_exactly(model, MixtureLanguageModel):
        parts = [{"model": type(each).__name__, "config": config_of(each)} for each in model.models]
        is_known = all(part["config"] is not None for part in parts)
        return {"models": parts, "weights": list(model.weights)} if is_known else None
    if not _is_exactly(model, GPTLanguageModel) or model.config is None or parts_of(model) != model.built_as:
        return None
    return asdict(model.config)


def _is_exactly(model: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Return whether a model is of a class, not of a subclass.

    ``fully_shard`` gives a model a class derived from ``FSDPModule`` and its own, which counts as its own.
    """
    own, *others = type(model).__mro__
    return (others[1] if others[0].__name__ == "FSDPModule" else own) is kind


def _in_words(value: object) -> str:
    """Return a plain setting as text, the same in another process; otherwise an empty text."""
    if isinstance(value, bool | int | float | str | None | torch.dtype):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_in_words, value))})"
    if isinstance(value, partial):
        settings = (*value.args, *value.keywords.items())
        return f"{_in_words(value.func)}{_in_words(settings)}"
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not callable(value) or name is None or isinstance(value, nn.Module):
        return ""
    code = getattr(value, "__code__", None)  # tells lambdas apart by the names and constants that they use
    return name if code is None else f"{name}{_in_words((*code.co_names, *code.co_consts[1:]))}"
