"""Check that an argument is a language model, and say how to get one otherwise."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tinygpt.errors import InputTypeError, short
from tinygpt.models.base import LanguageModel
from tinygpt.models.config import GPTConfig


def check_model(name: str, model: Any) -> None:
    """Raise :class:`InputTypeError` unless ``model`` is a language model, and say how to get one."""
    if not isinstance(model, LanguageModel):
        kind, way = _described(model)
        raise InputTypeError(f"{name} must be a LanguageModel, got {kind}; {way}")
    # a lazy layer has no shape before its first call
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters()):
        raise InputTypeError(f"{name} must have all its parameters, got some without a shape; call it once on some ids")


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
    elif callable(model):
        return f"the function {getattr(model, '__name__', kind)}", "call it and pass the model that it returns"
    return kind, "use GPTConfig(vocab_size=...).build(); the model comes first"
