"""The pictures of docs/see-inside.md: a bigram and a small GPT on Shakespeare, looked into.

    python docs/see_inside.py        about 5 minutes on two cores; it needs chromium, and matplotlib's Pillow

The models are those of examples/11_compare_the_models.py. A second call finds the runs and only draws.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tinygpt import BigramLanguageModel, GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.serve import Playground
from tinygpt.views import head_scores, plot_embedding, plot_head, plot_runs, read

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browser import Browser

IMAGES = Path(__file__).parent / "images"
RUNS = Path(tempfile.gettempdir()) / "tinygpt-see-inside"
LINE = "ROMEO:\nMy lord, I will not speak of love to thee."
TYPOS = "My lord, I will.\nMy lrod, I wlil."
CLICKS = 'document.querySelectorAll("#grid button")[{head}].click(); choose({token});'


def trained() -> Trainer:
    """Train both models, or find them trained, and return the trainer of the GPT."""
    data = TokenDataset(shakespeare(), val_fraction=0.02)
    config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=128, n_layer=3, n_head=4, n_embd=144)
    often = {"eval_interval": 100, "preview_tokens": 0}
    table = TrainerConfig(max_iters=600, batch_size=32, block_size=128, learning_rate=0.05, **often)
    settings = TrainerConfig(max_iters=800, batch_size=12, learning_rate=7e-3, **often)
    Trainer(BigramLanguageModel(data.vocab_size), data, table, run_dir=RUNS / "bigram").fit(resume="auto")
    trainer = Trainer(config.build(seed=0), data, settings, run_dir=RUNS / "gpt")
    trainer.fit(resume="auto")
    return trainer


def photograph(html: str, name: str, size: str, scale: int = 1) -> None:
    """Save a picture of a page as a browser shows it."""
    page, picture = RUNS / "page.html", IMAGES / name
    page.write_text(html, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000"]
    options += [f"--window-size={size}", f"--force-device-scale-factor={scale}", f"--screenshot={picture}"]
    subprocess.run(["chromium", *options, page.as_uri()], check=True, stderr=subprocess.DEVNULL)


def photograph_playground(trainer: Trainer) -> None:
    """Save a picture of the playground after a line was typed."""
    with Playground(trainer.sampler(), title="Shakespeare") as playground, Browser() as browser:
        browser.show(width=1280, height=900)
        browser.open(playground.url)
        browser.type(LINE)
        browser.wait("document.getElementById('status').textContent.startsWith('seed')")
        browser.wait("document.getElementById('look').srcdoc.length > 1000")
        browser.picture(IMAGES / "see_playground.png")


def shrink(name: str, colours: int = 128) -> None:
    """Reduce a picture to some colours, so that the documentation stays small."""
    Image.open(IMAGES / name).convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE).save(
        IMAGES / name, optimize=True
    )


def main() -> None:
    """Draw all pictures, and print the scores of the heads."""
    trainer = trained()
    model, tokenizer = trainer.model, trainer.sampler().tokenizer
    reading = read(model, tokenizer, LINE)
    scores = head_scores(model)
    print(scores)
    name = max(scores.previous, key=lambda each: scores.previous[each].max())
    head = int(scores.previous[name].argmax())
    number = 1 + [*scores.previous].index(name) * len(scores.previous[name]) + head
    clicks = CLICKS.format(head=number, token=39)
    photograph(f"{reading.page()}<script>{clicks}</script>", "see_page.png", "900,1000")
    photograph(read(model, tokenizer, TYPOS)._repr_html_(), "see_surprise.png", "560,110", scale=2)
    plot_head(read(model, tokenizer, LINE[7:]), name, head, IMAGES / "see_head.png")
    plot_embedding(model, tokenizer, IMAGES / "see_embedding.png")
    plot_runs({"bigram": RUNS / "bigram", "GPT": RUNS / "gpt"}, IMAGES / "see_losses.png")
    photograph_playground(trainer)
    shrink("see_playground.png", 256)
    for picture in ("page", "surprise", "head", "embedding", "losses"):
        shrink(f"see_{picture}.png")


if __name__ == "__main__":
    main()
