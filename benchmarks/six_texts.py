"""Read and train on six texts as people have them, for the table of docs/texts.md.

Run:   python benchmarks/six_texts.py
Needs: pip install faker music21, and the proverbs of Debian's package fortunes-es. Ten minutes on two cores.

Each text is first read in the plainest way. The warnings and errors of it name the call that is used then.
"""

import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules
from pydoc_data.topics import topics

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, evaluate, read_text, shakespeare
from tinygpt.errors import TinyGPTError
from tinygpt.texts import read_texts

PROVERBS = Path("/usr/share/games/fortunes/es/refranes.fortunes")
Make = Callable[[], TokenDataset]
TEXTS: dict[str, tuple[Make, Make]] = {
    "plays, with a BOM and `\\r\\n`": (
        lambda: TokenDataset(read_text("plays.txt")),
        lambda: TokenDataset(read_text("plays.txt", encoding="utf-8-sig", newline="\n")),
    ),
    "first names, sorted": (
        lambda: TokenDataset(read_text("names.txt")),
        lambda: TokenDataset.from_documents(read_text("names.txt").split("\n")),
    ),
    "help pages, a file each": (
        lambda: TokenDataset(read_texts("help")),  # type: ignore[arg-type] # the mistake that it shows
        lambda: TokenDataset.from_documents(read_texts("help")),
    ),
    "source code, in folders": (
        lambda: TokenDataset(read_texts("code/**/*.py")),  # type: ignore[arg-type] # the same one
        lambda: TokenDataset.from_documents(read_texts("code/**/*.py")),
    ),
    "Spanish proverbs, with accents as marks": (
        lambda: TokenDataset.from_documents(read_text("proverbs.txt").split("\n%\n")),
        lambda: TokenDataset.from_documents(read_text("proverbs.txt", normalize="NFC").split("\n%\n")),
    ),
    "Irish tunes, in ABC notation": (
        lambda: TokenDataset(read_text("tunes.abc")),
        lambda: TokenDataset.from_documents(read_text("tunes.abc").split("\n\n"), packing=False),
    ),
}


def write_texts() -> None:
    """Write the six texts to the working directory, as other programs leave them."""
    plays = shakespeare()[:500_000].replace("\n", "\r\n")
    Path("plays.txt").write_bytes(plays.encode("utf-8-sig"))
    names: set[str] = set()
    people = import_module("faker.providers.person")
    for module in iter_modules(people.__path__):
        provider = import_module(f"{people.__name__}.{module.name}").Provider
        found = (getattr(provider, f"first_names{kind}", ()) for kind in ("", "_female", "_male"))
        lists = (each for each in found if isinstance(each, Iterable))
        names.update(name for name in chain.from_iterable(lists) if name.isascii())
    Path("names.txt").write_text("\n".join(sorted(names)), encoding="utf-8")
    Path("help").mkdir()
    for name, text in topics.items():
        Path("help", f"{name}.txt").write_text(text, encoding="utf-8")
    for room in ("asyncio", "collections", "concurrent", "email"):
        Path("code", room).mkdir(parents=True)
        for path in sorted(Path(os.__file__).parent.glob(f"{room}/*.py")):
            Path("code", room, path.name).write_bytes(path.read_bytes())
    proverbs = unicodedata.normalize("NFD", PROVERBS.read_text(encoding="utf-8"))
    Path("proverbs.txt").write_text(proverbs, encoding="utf-8")
    spec = find_spec("music21")
    folders = (spec.submodule_search_locations if spec else None) or []
    tunes = sorted(Path(folders[0]).glob("corpus/oneills1850/*.abc"))
    collection = "\n\n".join(path.read_text(encoding="utf-8") for path in tunes)
    Path("tunes.abc").write_text(re.sub("(?m)^Z:.*\n", "", collection), encoding="utf-8")  # without who typed it


def complaints(make: Make) -> list[str]:
    """Return the warnings and the error of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            make()
        except TinyGPTError as error:
            return [*(str(each.message) for each in caught), str(error)]
    return [str(each.message) for each in caught]


def main() -> None:
    """Read each text twice, train on it, and print everything that the table shows."""
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        write_texts()
        for name, (plain, mended) in TEXTS.items():
            print(f"\n{name}", *complaints(plain), "then:", *complaints(mended), sep="\n  ", flush=True)
            data = mended()
            config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=2, n_head=4, n_embd=64)
            settings = TrainerConfig(max_iters=800, batch_size=32, eval_interval=400, preview_tokens=0)
            trainer = Trainer(config.build(seed=0), data, settings)
            history = trainer.fit(progress=False)
            loss = evaluate(trainer.model, data)
            samples = trainer.sampler()([""] * 3, max_new_tokens=80, seed=1)
            print(f"  {data}\n  bigram {history.bigram:.2f}, GPT {loss.nats:.2f} nats per character")
            print("", *map(repr, samples), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
