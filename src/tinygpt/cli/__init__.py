"""The command line ``tinygpt``: one verb for each thing to do with a model.

A verb is a function: its arguments are the flags and its docstring is the help. It imports what it needs when it runs,
so that help needs no torch. Standard output has the result alone. Notes, progress, warnings and errors go to standard
error.

======  ==========================================================
code    meaning
======  ==========================================================
0       done
1       the error of a file, a text or a model
2       an unknown flag, or a setting that is out of range
130     Ctrl-C; ``train`` has saved the run
141     the reader of standard output has closed it
143     SIGTERM; ``train`` has saved the run
======  ==========================================================

With ``TINYGPT_TRACEBACK=1`` an error is raised with its traceback.
"""

import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union

import tyro

import tinygpt
from tinygpt.cli.corpora import prepare
from tinygpt.cli.doctor import doctor
from tinygpt.cli.exchange import export, import_
from tinygpt.cli.inspection import info
from tinygpt.cli.messages import abandon, described, note, warnings_in_one_line
from tinygpt.cli.planning import plan
from tinygpt.cli.reading import play, score, serve, view, write
from tinygpt.cli.settings import TABLES
from tinygpt.cli.training import compare, train
from tinygpt.errors import ConfigError, TinyGPTError
from tinygpt.suggestions import did_you_mean

__all__ = ["main"]

Verb = Callable[..., int]
VERBS: dict[str, Verb] = {
    each.__name__.rstrip("_"): each
    for each in (train, write, score, compare, view, serve, play, export, import_, info, plan, prepare, doctor)
}
_GROUPS = ("model", "trainer", "given")  # arguments of train that are no flags themselves
_ABOUT = """Small GPT language models: train one on a text, and let it write.

  tinygpt train verse.txt
  tinygpt write runs/verse

tinygpt VERB --help explains a verb; tinygpt --version shows the version."""
_OTHER_WORDS = {  # for verbs, in other programs
    "train": "fit run learn finetune resume",
    "write": "generate sample complete run predict prompt",
    "score": "eval evaluate perplexity test loss",
    "compare": "plot curves",
    "view": "show look inspect attention visualize",
    "export": "convert to_gguf to_huggingface push publish",
    "import": "from_pretrained",
    "info": "describe stat summary",
    "plan": "cost estimate memory flops",
    "prepare": "encode tokenize preprocess shard",
    "serve": "web server ui gui gradio playground",
    "play": "chat interactive repl",
    "doctor": "env collect_env version debug",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code.

    Args:
        argv: The arguments, by default those of the process.

    Example:
        >>> main(["--version"])
        0.1.0
        0
    """
    if sys.stdout is None:  # closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 # to the end of the process
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        with suppress(AttributeError):
            stream.reconfigure(errors=errors)  # type: ignore[union-attr] # None and other streams have none
    with warnings_in_one_line():
        try:
            code = _command(list(sys.argv[1:] if argv is None else argv))()
            sys.stdout.flush()
            return code
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BrokenPipeError:
            abandon(sys.stdout)
            return 141
        except KeyboardInterrupt:
            return 130
        except (TinyGPTError, OSError) as error:
            if os.environ.get("TINYGPT_TRACEBACK"):
                raise
            note(f"tinygpt: error: {described(error)}")
            return 2 if isinstance(error, ConfigError) else 1


def _command(arguments: list[str]) -> Callable[[], int]:
    """Return the verb of a command line with its arguments.

    Raises:
        ConfigError: If a verb or a flag is unknown; the message has the nearest known one.
        SystemExit: After the help, and after an error of usage that the parser describes.
    """
    arguments = arguments or ["--help"]
    if arguments[0] == "--version":
        return _show_version
    if arguments[0] not in VERBS and not arguments[0].startswith(("-h", "--help", "--tyro")):
        _refuse_verb(arguments[0])
    choice: Any = Union[tuple(_subcommand(*each, arguments[0]) for each in VERBS.items())]  # noqa: UP007 # a tuple of types
    with _usage_in_one_line(arguments[0]):
        command, unknown = tyro.cli(
            choice, prog="tinygpt", description=_ABOUT, args=arguments, return_unknown_args=True
        )
    if unknown:
        _refuse_arguments(arguments[0], unknown)
    if "given" in command.keywords:
        command.keywords["given"] = _given(arguments)
    return command


@contextmanager
def _usage_in_one_line(verb: str) -> Iterator[None]:
    """Show an error that the parser prints in a box as one line."""
    printed, plain = io.StringIO(), io.StringIO()
    in_colours = not os.environ.get("NO_COLOR")  # the parser colours the help of any terminal
    try:
        with redirect_stderr(printed), redirect_stdout(sys.stdout if in_colours else plain):
            yield
    except SystemExit as end:
        print(plain.getvalue(), end="")
        if end.code != 2:
            raise
        lines = [line.strip(" │|") for line in printed.getvalue().splitlines()[1:]]
        told = " ".join(line for line in lines if line.strip("─-+╰╯")).partition(" For full helptext")[0]
        told = told.partition(" Argument helptext")[0]
        told = re.sub(r"Error parsing (\S+): .*?(?:\['|base 10: '|float: ')(.*?)'.*", r"\1 cannot be '\2'", told)
        told = re.sub(r"Missing from .*?: (\S+) (.*?) \(required\)", r"\1 is missing: \2", told)
        raise ConfigError(f"{told.rstrip('.')}; see tinygpt {verb} --help") from None


def _subcommand(name: str, verb: Verb, chosen: str) -> Any:
    """Return a verb for the parser, which builds its flags only where they are needed."""
    about = (inspect.getdoc(verb) or "").partition("\n\nArgs:" if name == chosen else "\n")[0]

    @wraps(verb)
    def defer(*values: Any, **named: Any) -> Callable[[], int]:
        """Keep the arguments for later, so that the parser takes no error of a verb for one of usage."""
        return partial(verb, *values, **named)

    return Annotated[Any, tyro.conf.subcommand(name, description=about, constructor_factory=lambda: defer)]


def _show_version() -> int:
    print(tinygpt.__version__)
    return 0


def _refuse_verb(word: str) -> NoReturn:
    """Raise a ConfigError with the verb that was probably meant."""
    if word.startswith("-"):
        raise ConfigError(f"tinygpt needs a verb before {word}; see tinygpt --help")
    if Path(word).is_file():
        raise ConfigError(f"tinygpt needs a verb before {word!r}, e.g. tinygpt train {word}")
    meant = [verb for verb, words in _OTHER_WORDS.items() if word in words.split()]
    way = f"; did you mean {meant[0]!r}?" if meant else did_you_mean(word, VERBS)
    raise ConfigError(f"tinygpt has no verb {word!r}{way or '; see tinygpt --help'}")


def _refuse_arguments(verb: str, unknown: Sequence[str]) -> NoReturn:
    """Raise a ConfigError with the flag that was probably meant."""
    flags = [each for each in unknown if each.startswith("-")]
    if not flags:
        raise ConfigError(f"{verb} got an unexpected argument {unknown[0]!r}; quote a text that contains spaces")
    flag = flags[0].partition("=")[0]
    name = flag.strip("-").replace("-", "_")
    parameters = inspect.signature(VERBS[verb]).parameters.values()
    if name in [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]:
        raise ConfigError(f"{name} is an argument of {verb} without a flag; see tinygpt {verb} --help")
    known = [each.name for each in parameters if each.name not in _GROUPS]
    known += sum(TABLES.values(), ()) if verb == "train" else ()
    way = re.sub(r"'(\w+)'", _as_flag, did_you_mean(name, known), count=1)
    raise ConfigError(f"{verb} has no flag {flag}{way or f'; see tinygpt {verb} --help'}")


def _as_flag(name: re.Match[str]) -> str:
    return f"--{name[1].replace('_', '-')}"


def _given(arguments: Sequence[str]) -> frozenset[str]:
    """Return the names of the flags in a command line."""
    flags = (each[2:].partition("=")[0].replace("-", "_") for each in arguments if each.startswith("--"))
    return frozenset(each.removeprefix("no_") for each in flags)
