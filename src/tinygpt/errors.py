"""The kinds of errors, and the small checks that raise them.

Every error that tinygpt raises for a user's mistake is a :class:`TinyGPTError`, and also the built-in exception that
fits, so ``except ValueError`` keeps working. A message states the rule, then what it got, then the way out.
"""

import inspect
import math
import operator
import os
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

Settings = TypeVar("Settings", bound=type)
Function = TypeVar("Function", bound=Callable[..., Any])

_HERE = str(Path(__file__).parent)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 50
_PATH = reprlib.Repr()
_PATH.maxstring = 120


class TinyGPTError(Exception):
    """Any error that tinygpt raises on purpose."""


class ConfigError(TinyGPTError, ValueError):
    """A setting is outside what is allowed."""


class TokenizerError(TinyGPTError, ValueError):
    """A symbol or an id is not in the vocabulary, or the vocabulary itself is not one."""


class DataError(TinyGPTError, ValueError):
    """A corpus is missing, unreadable, or too short for what is asked of it."""


class ShapeError(TinyGPTError, ValueError):
    """A tensor of ids has the wrong shape, or ids outside the vocabulary."""


class InputTypeError(TinyGPTError, TypeError):
    """An argument has the wrong type or dtype."""


class NonFiniteError(TinyGPTError, ArithmeticError):
    """A loss, a gradient or a logit is NaN or infinite."""


class DeviceError(TinyGPTError, RuntimeError):
    """The device that was asked for is not on this machine."""


class RunExistsError(TinyGPTError, FileExistsError):
    """The run directory already holds a run, or a file that a run would overwrite."""


class RunLockedError(TinyGPTError, RuntimeError):
    """Another trainer is at work in the run directory, or has begun the run before this process was forked."""


class CheckpointError(TinyGPTError, RuntimeError):
    """A model file cannot be written or read."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no model file at that path."""


class CheckpointCorruptError(CheckpointError):
    """A file is not, or is no longer, what tinygpt wrote."""


class CheckpointMismatchError(CheckpointError):
    """A file is sound, but does not fit the model it is loaded into."""


class CheckpointVersionError(CheckpointError):
    """A file was written by a newer tinygpt."""


class CheckpointSaveError(CheckpointError, OSError):
    """A model file could not be written; what was there before is untouched. ``errno`` is the system's reason."""

    def __init__(self, errno: int | None, message: str) -> None:
        super().__init__(errno, message)
        self.errno = errno

    def __str__(self) -> str:
        return str(self.args[1])


def warn(message: str) -> None:
    """Warn, pointing to the first line outside tinygpt, also where standard error cannot be written to."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, stacklevel=level)
    except Warning:
        raise  # a filter of the user makes an error of it
    except Exception:
        pass


def short(value: object) -> str:
    """Return ``repr(value)``, cut to a length that fits into a message.

    Example:
        >>> short("to be, or not to be, " * 1000)
        "'to be, or not to be, t..., to be, or not to be, '"
    """
    return _SHORT.repr(value)


def cut(text: str, width: int = 200) -> str:
    """Return a text for a message, one longer than ``width`` cut between two words.

    Example:
        >>> cut("to be, or not to be, " * 1000)[-22:]
        'or not to be, to [...]'
    """
    return shorten(text, width)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Return some names for a message, one for all that differ in the number of the layer alone.

    Example:
        >>> listed(["blocks.0.norm", "blocks.1.norm", "head"])
        'blocks.*.norm, head'
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    shown = [pattern if len(some) > 1 else some[0] for pattern, some in alike.items()]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def show(path: Path) -> str:
    """Return a path for a message: quoted, with what is not printable escaped, and only a long one cut."""
    return _PATH.repr(str(path))


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return ``value`` as an ``int`` if it is one within the bounds, both included.

    Raises:
        ConfigError: If it is a float, a bool, a string, or out of bounds.

    Example:
        >>> check_integer("n_layer", 0, minimum=1)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: n_layer must be an integer of at least 1, got n_layer=0
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum or (maximum is not None and number > maximum):
        rule = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ConfigError(f"{name} must be an integer {rule}, got {name}={short(value)}")
    return number


def check_number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    """Return ``value`` as a ``float`` if it is a finite number for which the rule holds.

    Raises:
        ConfigError: If it is not a number, not finite, or breaks the rule.

    Example:
        >>> check_number("dropout", 1.5, "in [0, 1)", lambda p: 0 <= p < 1)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: dropout must be a number in [0, 1), got dropout=1.5
    """
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and holds(number)):
        raise ConfigError(f"{name} must be a number {rule}, got {name}={short(value)}")
    return number


def check_dropout(dropout: Any) -> float:
    """Return ``dropout`` if it is a probability below 1; everywhere in tinygpt the same rule.

    Raises:
        ConfigError: If it is not.
    """
    return check_number("dropout", dropout, "in [0, 1)", lambda p: 0 <= p < 1)


def check_truth(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ConfigError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {name}={short(value)}")
    return value


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise unless ``value`` is one of the words.

    Raises:
        ConfigError: Naming the words, and the nearest one.

    Example:
        >>> check_choice("precision", "fp61", ["auto", "fp32", "bf16", "fp16"])
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: precision must be one of 'auto', 'fp32', 'bf16', 'fp16', got 'fp61'; did you mean 'fp16'?
    """  # noqa: E501 - the message is shown whole
    words = list(choices)
    if not isinstance(value, str) or value not in words:
        allowed = ", ".join(map(repr, words))
        raise ConfigError(f"{name} must be one of {allowed}, got {short(value)}{did_you_mean(value, words)}")


def check_path(name: str, value: Any) -> Path:
    """Return ``value`` as a :class:`~pathlib.Path`, with ``~`` or ``~user`` at its start expanded.

    Raises:
        InputTypeError: If it is neither a str nor a path, such as None.
        ConfigError: If it is empty, has a character that no file name can have, or names an unknown user.

    Example:
        >>> check_path("run_dir", 7)
        Traceback (most recent call last):
            ...
        tinygpt.errors.InputTypeError: run_dir must be a str or a path, got 7
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        raise InputTypeError(f"{name} must be a str or a path, got {short(value)}")
    if not text:
        raise ConfigError(f"{name} must not be empty, got {name}=''; the current directory is '.'")
    try:
        path = Path(text).expanduser()
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    except RuntimeError as error:
        raise ConfigError(
            f"{name} must begin with ~ only for a home directory that is known, got {name}={show(Path(text))}; use "
            "'./~...' for a file of that name, or write the directory out"
        ) from error
    if not is_name:
        raise ConfigError(f"{name} must have only characters that a file name can have, got {name}={short(text)}")
    return path


def checked_settings(cls: Settings) -> Settings:
    """Let a dataclass of settings refuse an unknown or a missing name with an error of ours, not Python's.

    Example:
        >>> from dataclasses import dataclass
        >>> @checked_settings
        ... @dataclass(kw_only=True)
        ... class Sizes:
        ...     n_head: int
        >>> Sizes(num_heads=4)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: Sizes has no setting 'num_heads'; did you mean 'n_head'?
    """
    make = cls.__init__  # type: ignore[misc] # a subclass might take other arguments; none is made
    known = {field.name: field.default is field.default_factory is MISSING for field in fields(cls)}
    _SETTINGS[cls.__name__] = tuple(known)

    @wraps(make)
    def checked(self: Any, *values: Any, **settings: Any) -> None:
        if values:
            raise InputTypeError(f"{cls.__name__} takes its settings by name, got {short(values[0])} without one")
        for name in settings:
            if name not in known:
                raise ConfigError(f"{cls.__name__} has no setting {short(name)}{_way_out(cls.__name__, name, known)}")
        for name, needed in known.items():
            if needed and name not in settings:
                given = ", ".join(settings) or "no settings"
                raise ConfigError(f"{cls.__name__} needs {name}, got {given}; use {cls.__name__}({name}=...)")
        make(self, **settings)

    cls.__init__ = checked  # type: ignore[misc] # the same
    return cls


def checked_names(function: Function) -> Function:
    """Let a function refuse an unknown keyword with an error that names ours, or the config that has it.

    Raises:
        InputTypeError: If a keyword is unknown; a :class:`TypeError`, as Python's own would be.

    Example:
        >>> @checked_names
        ... def generate(prompt, max_new_tokens):
        ...     return prompt
        >>> generate("a", max_tokens=3)
        Traceback (most recent call last):
            ...
        tinygpt.errors.InputTypeError: generate has no argument 'max_tokens'; did you mean 'max_new_tokens'?
    """
    known = tuple(name for name in inspect.signature(function).parameters if name != "self")
    called = function.__qualname__.removesuffix(".__init__").split("<locals>.")[-1]
    if called.startswith(("Trainer", "Sampler")):
        _ARGUMENTS[called] = known

    @wraps(function)
    def checked(*values: Any, **named: Any) -> Any:
        for name in named:
            if name not in known:
                raise InputTypeError(f"{called} has no argument {short(name)}{_way_out(called, name, known)}")
        return function(*values, **named)

    return checked  # type: ignore[return-value] # it takes what the function takes


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'n_head'?"`` for another library's name or a near miss, else nothing.

    Where the unit is another, what to compute comes with it.

    Example:
        >>> did_you_mean("max_length", ["max_new_tokens", "temperature"])
        "; did you mean 'max_new_tokens'? It does not count the prompt"
    """
    words = list(words)
    nearest = [ours for ours in _translate(word) if ours in words] or get_close_matches(str(word), words, n=1)
    return f"; did you mean {nearest[0]!r}?{_note(nearest[0], word, ' ')}" if nearest else ""


def _way_out(where: str, word: str, known: Iterable[str]) -> str:
    """Return what to write for an unknown name: one of those known, or where it belongs."""
    words, translated = list(known), _translate(word)
    if not set(translated) & set(words):
        for owner, names in (_SETTINGS | _ARGUMENTS).items():
            for ours in translated:
                if ours in names:
                    return f"; use {owner}({ours}=...){_note(ours, word, ': ')}"
    return did_you_mean(word, words) or f"; see help({where})"


def _translate(word: object) -> list[str]:
    """Return our words for what others call so; a word of ours is one of them."""
    lowered = str(word).lower()
    return [ours for ours, theirs in _ELSEWHERE.items() if lowered == ours or lowered in theirs.split()]


def _note(ours: str, theirs: object, lead: str) -> str:
    words = (note for mine, words, note in _NOTES if mine == ours and str(theirs).lower() in words.split())
    return "".join(f"{lead}{note}" for note in words)


_SETTINGS: dict[str, tuple[str, ...]] = {}  # the names that each config has
_ARGUMENTS: dict[str, tuple[str, ...]] = {}  # the names that each function of a trainer or a sampler takes

# Our word, and what nanoGPT, minGPT, PyTorch, transformers, Lightning, Keras and papers call it.
_ELSEWHERE = {
    "head_size": "head_dim d_head dim_head size_per_head key_dim",
    "n_embd": "n_embed n_emb d_model d_embed d_embd embed_dim emb_dim embd_dim embedding_dim embedding_size embed_size "
    "emb_size model_dim dim d hidden_size hidden_dim hidden width embd head_size head_dim d_head",
    "n_head": "n_heads num_heads num_head heads nhead nheads num_attention_heads attention_heads attn_heads",
    "n_layer": "n_layers num_layers num_layer layers depth n_block n_blocks num_blocks num_hidden_layers "
    "num_decoder_layers blocks",
    "block_size": "context_length context_len context_size context ctx ctx_len n_ctx n_positions seq_len seq_length "
    "sequence_length sequence_len max_seq_len max_seq_length max_sequence_length max_length max_len "
    "max_position_embeddings maxlen window window_size bptt",
    "vocab_size": "vocab n_vocab num_tokens n_tokens vocabulary_size vocab_len num_embeddings vocabulary",
    "dropout": "drop drop_rate dropout_rate dropout_p dropout_prob p_drop p p_dropout pdrop resid_pdrop attn_pdrop "
    "embd_pdrop hidden_dropout_prob attention_dropout attn_dropout residual_dropout",
    "layout": "architecture arch variant style model_type",
    "max_iters": "steps step n_steps num_steps max_steps total_steps train_steps training_steps num_train_steps "
    "max_train_steps iters n_iters n_iter num_iters iterations num_iterations n_iterations max_iter max_iterations "
    "lr_decay_iters epochs epoch n_epochs num_epochs max_epochs num_train_epochs nb_epochs",
    "batch_size": "batch bs batchsize n_batch mini_batch_size minibatch_size train_batch_size global_batch_size "
    "micro_batch_size per_device_train_batch_size",
    "learning_rate": "lr learn_rate learningrate alpha eta step_size base_lr peak_lr max_lr init_lr",
    "final_learning_rate": "min_lr lr_min eta_min end_lr final_lr lr_end min_learning_rate",
    "warmup_iters": "warmup warmup_steps num_warmup_steps n_warmup warm_up warmup_ratio",
    "weight_decay": "wd decay l2 weightdecay",
    "betas": "beta beta1 beta2 adam_beta1 adam_beta2 adam_betas",
    "grad_clip": "clip clip_norm clip_grad clip_grad_norm grad_clip_norm grad_norm_clip grad_norm max_norm "
    "max_grad_norm gradient_clip gradient_clipping gradient_clip_val clipnorm",
    "accumulation": "accumulation_steps accumulate gradient_accumulation_steps gradient_accumulation grad_accum "
    "grad_accum_steps grad_accumulation grad_accumulation_steps accumulate_grad_batches n_accum micro_batches",
    "eval_interval": "eval_every eval_steps eval_freq evaluation_interval val_interval val_every val_check_interval "
    "log_interval log_every logging_steps",
    "eval_iters": "eval_batches val_batches limit_val_batches val_steps",
    "patience": "early_stopping early_stopping_patience early_stop",
    "save_interval": "save_every save_steps save_freq checkpoint_interval checkpoint_every ckpt_interval",
    "keep_checkpoints": "save_total_limit save_top_k max_checkpoints keep_last",
    "sample_length": "sample_len preview_length preview",
    "seed": "random_seed random_state manual_seed rng_seed generator",
    "device": "accelerator gpu cuda use_gpu use_cuda",
    "precision": "dtype amp fp16 bf16 fp32 mixed_precision half use_amp autocast",
    "compile": "torch_compile use_compile jit",
    "optimizer": "optim opt optimiser optimizer_name",
    "run_dir": "output_dir out_dir log_dir logdir save_dir checkpoint_dir ckpt_dir work_dir default_root_dir directory",
    "data": "dataset train_dataset train_data train_dataloader dataloader train_loader corpus",
    "config": "cfg args settings train_config trainer_config configuration",
    "model": "net network module lm",
    "progress": "verbose progress_bar show_progress enable_progress_bar disable_tqdm quiet silent",
    "resume": "resume_from_checkpoint resume_training ckpt_path continue_training",
    "max_new_tokens": "max_tokens n_tokens num_tokens max_length max_len length n_new max_new new_tokens tokens "
    "steps max_gen_len n_predict max_output_tokens",
    "temperature": "temp tau t do_sample greedy",
    "top_k": "k topk",
    "top_p": "p topp nucleus nucleus_p",
    "min_p": "minp",
    "stop": "stop_sequences stop_strings stop_words stop_token eos eos_token",
    "prompt": "text input inputs context start prefix prompts n num_return_sequences num_samples n_samples",
    "idx": "ids input_ids tokens x inputs input context",
    "stride": "step hop",
    "tokenizer": "tok tokeniser encoder encoding",
    "val_fraction": "val_split validation_split val_size test_size val_ratio split val_frac test_split valid_fraction",
    "source": "text data ids tokens corpus",
    "hidden_size": "n_inner intermediate_size d_ff ff_dim ffn_dim mlp_dim dim_feedforward hidden_dim",
    "causal": "is_causal is_decoder masked mask",
    "bias": "use_bias qkv_bias add_bias",
}

# Where others count in another unit, what to write: our word, theirs, and the formula.
_NOTES = [
    (
        "max_iters",
        "epochs epoch n_epochs num_epochs max_epochs num_train_epochs nb_epochs",
        "max_iters = epochs * len(data.train) // (batch_size * block_size)",
    ),
    ("n_embd", "head_size head_dim d_head", "n_embd = n_head * head_size"),
    ("betas", "beta beta1 beta2 adam_beta1 adam_beta2", "betas=(beta1, beta2)"),
    ("max_new_tokens", "max_length max_len", "It does not count the prompt"),
    ("device", "gpu cuda use_gpu use_cuda accelerator", "device='cuda'"),
    ("precision", "amp fp16 bf16 fp32 use_amp half autocast mixed_precision dtype", "'fp16', 'bf16', 'fp32' or 'auto'"),
    ("progress", "verbose quiet silent disable_tqdm", "progress=True or progress=False"),
    ("batch_size", "micro_batch_size per_device_train_batch_size", "It counts all micro-batches of a step"),
    (
        "accumulation",
        "gradient_accumulation_steps gradient_accumulation grad_accum grad_accum_steps grad_accumulation "
        "grad_accumulation_steps accumulate_grad_batches accumulation_steps accumulate n_accum micro_batches",
        "batch_size counts all micro-batches of a step",
    ),
    ("warmup_iters", "warmup_ratio", "warmup_iters = warmup_ratio * max_iters"),
    ("seed", "generator", "seed=0, a number"),
    ("temperature", "do_sample greedy", "temperature=0 is greedy"),
    ("prompt", "n num_return_sequences num_samples n_samples", "[text] * 3 for three texts of max_new_tokens each"),
]
