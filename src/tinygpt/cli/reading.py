"""The verbs that read with a model: write, score, view, serve and play."""

import json
import math
import sys
import webbrowser
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from tinygpt.cli.messages import described, note
from tinygpt.cli.paths import given_text, load_sampler, text_file
from tinygpt.errors import ConfigError, TinyGPTError, harmless

if TYPE_CHECKING:
    from tinygpt import Sampler

Model = Annotated[Positional[str], arg(metavar="MODEL")]
_CHOICES = 9  # tokens to choose from: one for each digit


def write(
    model: Model,
    prompt: Annotated[Positional[str], arg(metavar="[PROMPT]", help_behavior_hint="")] = "",
    *,
    max_new_tokens: Annotated[int, arg(aliases=["-n"])] = 500,
    temperature: Annotated[float, arg(aliases=["-t"])] = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: Annotated[UseAppendAction[tuple[str, ...]], arg(help_behavior_hint="")] = (),
    seed: int | None = None,
) -> int:
    """Write text with a model.

    Args:
        model: A model file, or the directory of a run.
        prompt: The text to continue; - reads it from standard input.
        max_new_tokens: Number of tokens to generate, at most.
        temperature: Values below 1 make sampling more conservative, above 1 more random; 0 is greedy.
        top_k: Draw from this many of the most likely tokens only.
        top_p: Draw from the smallest set of most likely tokens with this probability.
        min_p: Draw from the tokens that have at least this share of the largest probability.
        stop: End before this text; several of them may be given.
        seed: Write the text of this seed again. By default each text is new, and its seed is shown.
    """
    sampler, text = load_sampler(model), given_text(prompt)
    pieces = sampler.stream(
        text,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=stop or None,
        seed=seed,
    )
    if seed is None:
        note(f"seed {sampler.last_seed}")
    for piece in chain([text], pieces, ["\n"]):
        show(piece)
    return 0


def score(
    model: Model,
    text: Annotated[Positional[str | None], arg(metavar="[TEXT]", help_behavior_hint="")] = None,
    *,
    file: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None,
    json: bool = False,
) -> int:
    """Show how much each token of a text surprises a model, and its bits per character.

    Args:
        model: A model file, or the directory of a run.
        text: The text; - reads it from standard input.
        file: A text file to read instead.
        json: Print the numbers as JSON.
    """
    from tinygpt import read_text, views

    if (text is None) == (file is None):
        raise ConfigError("score needs one text: TEXT, - for standard input, or --file F")
    sampler = load_sampler(model)
    read = given_text(text) if text is not None else read_text(text_file(file or ""))
    reading = views.read(sampler.model, sampler.tokenizer, read)
    if json:
        bits = [round(each, 6) for each in reading.bits.tolist()]
        show_json({"bits_per_character": reading.bits_per_character, "pieces": [*reading.pieces], "bits": bits})
    else:
        show(f"{reading.ansi()}\n{reading.bits_per_character:.3f} bits per character\n", escaped=False)
    return 0


def view(
    model: Model,
    text: Annotated[Positional[str], arg(metavar="TEXT")],
    *,
    output: Annotated[str, arg(aliases=["-o"])] = "look.html",
    open: bool = False,
) -> int:
    """Write a page that shows what a model does with a text.

    Args:
        model: A model file, or the directory of a run.
        text: The text; - reads it from standard input. Only its last block_size tokens are shown.
        output: The HTML file to write.
        open: Open the page in a browser.
    """
    from tinygpt import views
    from tinygpt.files import check_path
    from tinygpt.tokenizer import encode_text

    sampler, path = load_sampler(model), check_path("output", output)
    whole = given_text(text)
    ids = encode_text(sampler.tokenizer, whole).tolist()
    most = sampler.model.block_size or len(ids)
    if len(ids) > most:
        note(f"the page shows the last {most} of {len(ids):,} tokens (block_size={most})")
        whole = sampler.tokenizer.decode(ids[-most:])
    reading = views.read(sampler.model, sampler.tokenizer, whole)
    try:
        reading.page(path)
    except OSError as error:  # which names the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error
    show(f"{path}\n")
    if open:
        webbrowser.open(path.absolute().as_uri())
    return 0


def serve(model: Model, *, port: int = 0, open: bool = False) -> int:
    """Serve a page on this computer that writes with a model and looks inside it.

    The page writes while you type, and shows what the model expected at each position. Only this computer can reach it.
    Ctrl-C ends it.

    Args:
        model: A model file, or the directory of a run.
        port: Port of the server; 0 takes a free one.
        open: Open the page in a browser.
    """
    from tinygpt.serve import Playground

    with Playground(load_sampler(model), port=port, title=Path(model).resolve().stem) as playground:
        show(f"{playground.url}\n")
        note("Ctrl-C ends it")
        if open:
            webbrowser.open(playground.url)
        playground.wait()
    return 0


def play(model: Model) -> int:
    """Write a text together with a model, token by token.

    Each line of input continues the text: a digit takes one of the likeliest tokens, an empty line the first of them,
    and any other text is appended and scored. The end of the input, Ctrl-D, ends the game and prints the text.

    Args:
        model: A model file, or the directory of a run.
    """
    sampler, text, bits = load_sampler(model), "", 0.0
    note("1-9 takes a token, Enter the first, other text is appended as it stands; Ctrl-D ends")
    while True:
        tokens = _likeliest(sampler, text)
        note(f"\n{text!r}" if text else "\n(no text yet)")
        note("   ".join(f"{n} {piece!r} {chance:.1%}" for n, (piece, chance) in enumerate(tokens, 1)))
        try:
            line = input()
        except (EOFError, RuntimeError):  # its end, or a closed standard input
            show(f"{text}\n")
            return 0
        chosen = int(line or 1) - 1 if line in ("", *map(str, range(1, len(tokens) + 1))) else None
        added = line if chosen is None else tokens[chosen][0]
        try:
            cost = -float(sampler.score(text + added)[len(sampler.score(text)) :].sum()) / math.log(2)
        except TinyGPTError as error:
            note(f"tinygpt: error: {described(error)}")
            continue
        text, bits = text + added, bits + cost
        note(f"{cost:.2f} bits for {added!r}, {bits:.2f} in all")


def _likeliest(sampler: "Sampler", text: str) -> list[tuple[str, float]]:
    """Return the likeliest next tokens of a text with their probabilities."""
    import torch

    from tinygpt.models.base import WINDOW
    from tinygpt.models.modes import evaluating
    from tinygpt.sampling.window import window_start
    from tinygpt.tokenizer import encode_text

    model = sampler.model
    ids = [sampler.start_id, *encode_text(sampler.tokenizer, text).tolist()]
    ids = ids[window_start(len(ids), model.block_size or WINDOW, sampler.stride) :]
    with evaluating(model):
        logits = model.compute_logits(torch.tensor([ids], device=model.device))[0, -1, : sampler.tokenizer.vocab_size]
    chances, found = logits.cpu().double().softmax(dim=-1).topk(min(_CHOICES, len(logits)))
    return [
        (sampler.tokenizer.decode([id]), chance) for id, chance in zip(found.tolist(), chances.tolist(), strict=True)
    ]


def show(text: str, *, escaped: bool = True) -> None:
    """Write a part of the result to standard output, at once; on a terminal, control characters are escaped."""
    sys.stdout.write(harmless(text) if escaped and sys.stdout.isatty() else text)
    sys.stdout.flush()


def show_json(value: object) -> None:
    """Write a result as JSON, with null for numbers that are not finite."""
    show(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
