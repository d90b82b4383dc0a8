"""The HTML and the terminal text of a reading: safe, small, the same each time, readable, and usable by keyboard."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import faults
import matplotlib.image
import numpy as np
import pytest
from builders import BLOCK, TEXT, TOKENIZER, make_gpt
from faults import broken_by

from tinygpt import BigramLanguageModel, CharTokenizer
from tinygpt.errors import ConfigError
from tinygpt.views import Reading, read
from tinygpt.views.colours import INK, MOST_BITS, red
from tinygpt.views.page import MOST_IN_FRAGMENT, MOST_IN_FRAME
from tinygpt.views.terminal import SHADES, terminal_colours

HOSTILE = "</script><img src=x onerror=document.title='ran'>\u2028\u2029\"'&amp;{{data}}\x1b[2J\u202e\n\ud800"
TEMPLATE = Path(sys.modules["tinygpt.views.page"].__file__ or "").with_name("page.html").read_text("utf-8")


def reading_of(text: str = TEXT[:BLOCK], **sizes: Any) -> Reading:
    tokenizer = CharTokenizer.from_text(text) if text not in TEXT else TOKENIZER
    model = make_gpt("modern", vocab_size=tokenizer.vocab_size, **sizes)
    return read(model, tokenizer, text)


HOSTILE_READING = reading_of(HOSTILE, block_size=len(HOSTILE))
RENDERINGS = [
    pytest.param(lambda reading: reading.page(), id="page"),
    pytest.param(lambda reading: reading.page()._repr_html_(), id="frame"),
    pytest.param(lambda reading: reading._repr_html_(), id="fragment"),
]
each_rendering = pytest.mark.parametrize("render", RENDERINGS)


class Parsed(HTMLParser):
    """The tags of a document with their attributes, and its text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- nothing from outside, nothing runs -------------------------------------------------------------------------------


@each_rendering
def test_html_loads_nothing(render: Callable[[Reading], str]) -> None:
    html = render(reading_of("to be"))
    assert [sign for sign in ("://", "src=", "href=", "url(", "@import") if sign in html] == []


@broken_by(faults.text_that_is_not_escaped)
@each_rendering
def test_text_cannot_become_html(render: Callable[[Reading], str]) -> None:
    plain, hostile = Parsed(render(reading_of(TEXT[: len(HOSTILE)], block_size=99))), Parsed(render(HOSTILE_READING))
    assert [tag for tag, _ in hostile.tags if tag != "span"] == [tag for tag, _ in plain.tags if tag != "span"]
    names = {name for _, attributes in hostile.tags for name in attributes}
    assert names == {name for _, attributes in plain.tags for name in attributes}


def test_the_page_forbids_all_but_its_own_script() -> None:
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    metas = [attributes for tag, attributes in Parsed(HOSTILE_READING.page()).tags if tag == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in metas


def test_a_frame_has_no_rights_in_its_document() -> None:
    html = HOSTILE_READING.page()
    ((tag, attributes),) = Parsed(html._repr_html_()).tags
    assert (tag, attributes["sandbox"]) == ("iframe", "allow-scripts")
    assert attributes["srcdoc"] == html


def test_a_fragment_has_no_script_and_no_id() -> None:
    tags = Parsed(HOSTILE_READING._repr_html_()).tags
    assert {tag for tag, _ in tags} == {"div", "span"}
    assert all(attributes.keys() <= {"style", "title"} for _, attributes in tags)


def test_canvas_buttons_and_text_have_labels() -> None:
    tags = Parsed(TEMPLATE).tags
    assert all(attributes.get("tabindex") == "0" for _, attributes in tags if attributes.get("id") == "text")
    assert all("aria-label" in attributes for _, attributes in tags if attributes.get("id") == "text")
    assert '$("large").ariaLabel' in TEMPLATE
    assert "button.ariaLabel" in TEMPLATE


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_page_has_the_numbers_of_the_reading() -> None:
    reading = reading_of()
    html = reading.page()
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    assert data["pieces"] == list(reading.text)
    assert data["bits"] == [round(float(bits), 2) for bits in reading.bits]
    assert data["heads"] == [f"blocks.{layer}.attention, head {head}" for layer in (0, 1) for head in (0, 1)]
    assert (data["square"], data["first"]) == (False, 0)
    assert len(data["weights"]) == 4 * -(-4 * BLOCK * (BLOCK + 1) // 2 // 3)


def test_a_long_text_is_cut_and_the_rest_is_counted() -> None:
    text = "ab" * 1100
    reading = read(BigramLanguageModel(2), CharTokenizer("ab"), text)
    fragment = reading._repr_html_()
    assert fragment.count("title=") == MOST_IN_FRAGMENT
    assert "and 200 more tokens" in fragment
    html = reading.page()
    assert json.loads(html.partition('id="data">')[2].partition("</script>")[0])["first"] == 0
    assert f"here are the last {MOST_IN_FRAME} tokens" in html.framed
    assert len(html.framed) < len(html)


def test_the_page_is_written_to_a_file(tmp_path: Path) -> None:
    html = HOSTILE_READING.page(tmp_path / "look.html")
    assert (tmp_path / "look.html").read_text("utf-8") == html
    assert repr(html) == f"Html({len(html):,} characters)"
    with pytest.raises(ConfigError, match="path must not be empty"):
        HOSTILE_READING.page("")


def test_an_attention_without_a_mask_is_shown_whole() -> None:
    model = make_gpt()
    for block in model.blocks:
        block.attention.causal = False  # type: ignore[union-attr]
    data = json.loads(read(model, TOKENIZER, "the q").page().partition('id="data">')[2].partition("</script>")[0])
    assert data["square"]
    assert len(data["weights"]) == 4 * -(-4 * 25 // 3)


PROGRAM = """
import hashlib, torch
from tinygpt import CharTokenizer, GPTConfig
from tinygpt.views import read
text = "to be, or not to be"
tokenizer = CharTokenizer.from_text(text)
config = GPTConfig.modern(vocab_size=tokenizer.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=8)
reading = read(config.build(seed=0), tokenizer, text)
for text in (reading.page(), reading._repr_html_(), reading.ansi(256)):
    print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_two_processes_write_the_same_bytes() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert len(digests) == 1
    assert len(digests.pop().split()) == 3


def test_html_is_small() -> None:
    assert len(TEMPLATE.encode()) <= 8000
    reading = reading_of(TEXT[:64], block_size=64, n_layer=4, n_head=4, n_embd=16)
    assert len(reading.page()) < 64_000
    assert len(reading._repr_html_()) < 160 * 64 + 800
    long = reading_of(TEXT[:256], block_size=256, n_layer=6, n_head=6, n_embd=12)
    assert len(long.page()) < 1_700_000
    assert len(long.page().framed) < 450_000


# --- colours ----------------------------------------------------------------------------------------------------------


def luminance(colour: tuple[int, ...]) -> float:
    """Return the relative luminance of WCAG."""
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def scales() -> dict[str, tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Return the ink and the colours of each scale."""
    found: dict[str, tuple[tuple[int, ...], list[tuple[int, ...]]]] = {
        "fragment": (INK, [red(MOST_BITS * n / 50) for n in range(51)]),
        "256 colours": ((0, 0, 0), [cube(code) for code in SHADES]),
    }
    for theme, block in zip(("light", "dark"), re.findall(r":root \{(.*?)\}", TEMPLATE), strict=True):
        named = {name: tuple(map(int, value.split(","))) for name, value in re.findall(r"--(\w+): ([\d,]+)", block)}
        for hue in ("red", "blue"):
            ends = zip(named["paper"], named[hue], strict=True)
            steps = [np.linspace(first, last, 51).round().astype(int) for first, last in ends]
            found[f"{theme} {hue}"] = named["ink"], [tuple(map(int, each)) for each in zip(*steps, strict=True)]
        found[f"{theme} words"] = named["soft"], [named["paper"]]
    return found


def cube(code: int) -> tuple[int, ...]:
    levels = (0, 95, 135, 175, 215, 255)
    return tuple(levels[(code - 16) // step % 6] for step in (36, 6, 1))


@pytest.mark.parametrize(("ink", "colours"), scales().values(), ids=scales())
def test_colours_can_be_read_and_told_apart_in_grey(ink: Any, colours: Any) -> None:
    assert min(contrast(ink, colour) for colour in colours) >= 4.5
    steps = [after - before for before, after in pairwise(map(luminance, colours))]
    assert all(step < 0 for step in steps) or all(step > 0 for step in steps)


def test_a_surprise_of_any_size_has_a_colour() -> None:
    assert red(-1.0) == red(0.0) == (255, 255, 255)
    assert red(float("inf")) == red(MOST_BITS)


@pytest.mark.parametrize("colours", [0, 256, 1 << 24])
def test_terminal_text_is_the_text(colours: int) -> None:
    text = TEXT[:BLOCK] + "\n" + TEXT[:3]
    reading = read(BigramLanguageModel(len(set(text))), CharTokenizer.from_text(text), text)
    lines = re.sub(r"\x1b\[[\d;]*m", "", reading.ansi(colours)).split("\n")
    assert [line.rstrip() for line in lines[:2]] == text.split("\n")
    assert (lines[2:] == [" 0  2  4  6  8  bits"]) == (colours > 0)


def test_text_cannot_send_escapes_to_a_terminal() -> None:
    assert "\x1b" not in HOSTILE_READING.ansi(0)
    assert set(re.findall(r"\x1b(?!\[[\d;]*m)", HOSTILE_READING.ansi(256))) == set()
    assert "\\x1b[2J\\u202e" in HOSTILE_READING.ansi(0)
    with pytest.raises(ConfigError, match="colours must be 0, 256 or 16777216, got colours=8"):
        HOSTILE_READING.ansi(8)


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "stream", "expected"),
    [
        ({}, Screen(), 256),
        ({}, StringIO(), 0),
        ({"COLORTERM": "truecolor"}, Screen(), 1 << 24),
        ({"TERM": "dumb"}, Screen(), 0),
        ({"NO_COLOR": "1"}, Screen(), 0),
        ({"NO_COLOR": ""}, Screen(), 256),
        ({"FORCE_COLOR": "1"}, StringIO(), 256),
        ({"FORCE_COLOR": "1", "TERM": "dumb", "COLORTERM": "truecolor"}, StringIO(), 1 << 24),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, Screen(), 0),
    ],
)
def test_the_environment_decides_the_colours(
    environment: dict[str, str], stream: StringIO, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal_colours(stream) == expected


# --- in a browser -----------------------------------------------------------------------------------------------------

TIME = "--virtual-time-budget=3000"  # milliseconds of the page's own clock
CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, e.g. apt-get install chromium")


def browse(path: Path, *options: str) -> tuple[str, list[str]]:
    """Return the document after its scripts, and the lines of the console."""
    command = f"--headless --no-sandbox --disable-gpu --hide-scrollbars --enable-logging=stderr {TIME}".split()
    command += [f"--user-data-dir={path.parent / 'profile'}", *options, path.as_uri()]
    done = subprocess.run([CHROMIUM or "", *command], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def after(html: str, script: str, folder: Path) -> str:
    """Return the body of a page after a script has acted on it."""
    path = folder / "page.html"
    path.write_text(f"{html}<script>{script}</script>", encoding="utf-8")
    document, console = browse(path, "--dump-dom")
    assert console == []
    return document


class Requests(BaseHTTPRequestHandler):
    """A proxy that counts the requests of a page."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if not re.search(r"\.(google|gvt1)\.com|googleapis", self.path):
            self.seen.append(self.path)
        self.send_error(404)

    do_CONNECT = do_GET  # noqa: N815 # the name that the base class calls

    def log_message(self, *arguments: Any) -> None:
        pass


@in_a_browser
def test_a_hostile_text_runs_nothing_and_asks_for_nothing(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = f"--proxy-server=127.0.0.1:{server.server_port}"
    try:
        (tmp_path / "control.html").write_text('<img src="http://example.com/control.png">')
        browse(tmp_path / "control.html", "--dump-dom", proxy)
        assert [*Requests.seen] == ["http://example.com/control.png"]
        Requests.seen.clear()
        HOSTILE_READING.page(tmp_path / "page.html")
        document, console = browse(tmp_path / "page.html", "--dump-dom", proxy)
        assert (Requests.seen, console) == ([], [])
    finally:
        server.shutdown()
        server.server_close()
        Requests.seen.clear()
    parsed = Parsed(document)
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert "<title>ran" not in document
    assert "onerror=document.title='ran'" in parsed.text


def chosen(document: str) -> int:
    """Return which token of the text is underlined; the start is none of them."""
    spans = [attributes for tag, attributes in Parsed(document).tags if tag == "span" and "title" in attributes]
    (index,) = [index for index, attributes in enumerate(spans) if attributes.get("aria-current") == "true"]
    return index - 1


@in_a_browser
@pytest.mark.parametrize(
    ("keys", "position"),
    [
        ([], BLOCK - 1),
        (["ArrowLeft"], BLOCK - 2),
        (["Home"], 0),
        (["Home", "ArrowLeft"], 0),
        (["Home", "End"], BLOCK - 1),
    ],
)
def test_keys_move_the_chosen_token(keys: list[str], position: int, tmp_path: Path) -> None:
    press = "".join(f'$("text").dispatchEvent(new KeyboardEvent("keydown", {{key: "{key}"}}));' for key in keys)
    assert chosen(after(reading_of().page(), press, tmp_path)) == position


@in_a_browser
def test_buttons_and_canvases_can_be_named(tmp_path: Path) -> None:
    document = after(reading_of().page(), '$("attention").click(); $("grid").children[2].click()', tmp_path)
    tags = Parsed(document).tags
    heads = [a for tag, a in tags if tag == "button" and a.get("aria-label")]
    assert [a["aria-label"] for a in heads[:2]] == ["Largest of all heads", "blocks.0.attention, head 0"]
    assert [a["aria-pressed"] for a in heads] == ["false", "false", "true", "false", "false"]
    assert [a.get("aria-label") for tag, a in tags if a.get("id") == "large"] == [
        "Attention weights: blocks.0.attention, head 1"
    ]


@in_a_browser
def test_two_frames_in_a_document_look_alike(tmp_path: Path) -> None:
    frame = reading_of().page()._repr_html_()
    path, picture = tmp_path / "two.html", tmp_path / "two.png"
    path.write_text(f'<body style="margin:0;line-height:0">{frame}{frame}', encoding="utf-8")
    _, console = browse(path, f"--screenshot={picture}", "--window-size=900,1440")
    assert console == []
    upper, lower = np.split(matplotlib.image.imread(picture), 2)
    assert np.array_equal(upper, lower)
    assert len(np.unique(upper.reshape(-1, upper.shape[-1]), axis=0)) > 20


@in_a_browser
def test_a_model_without_attention_has_a_page_too(tmp_path: Path) -> None:
    html = read(BigramLanguageModel(3), CharTokenizer("abc"), "abba").page()
    document = after(html, "", tmp_path)
    assert "the model has no attention that shows its weights" in document
    assert "None: the model has no norm and LM head" in document
