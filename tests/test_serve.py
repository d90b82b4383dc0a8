"""The playground: what it answers, whom it refuses, and what a reader does with it in a browser."""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from browser import CHROMIUM, Browser
from builders import BLOCK, TEXT, TOKENIZER, make_gpt
from faults import broken_by

from tinygpt import Sampler
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.serve import MOST_BYTES, MOST_TOKENS, Playground
from tinygpt.views import read

JSON = "application/json"


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    """Return a sampler of a tiny model."""
    return Sampler(make_gpt(), TOKENIZER)


@pytest.fixture(scope="module")
def playground(sampler: Sampler) -> Iterator[Playground]:
    """Return a playground at work."""
    with Playground(sampler, title="a </script> fox") as found:
        yield found


class Answer:
    """The status, the headers and the text of an answer."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers = answer.status, answer.headers
        self.text = answer.read().decode()


def ask(of: Playground, path: str, body: Any = None, **headers: str) -> Answer:
    """Send a request; without a body it is a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", of.port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        connection.request("GET", path, headers=headers)
    else:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": JSON, **headers})
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_page_names_the_model(playground: Playground) -> None:
    answer = ask(playground, "/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert '"a \\u003c/script> fox"' in answer.text
    assert "FACTS" not in answer.text


def test_it_writes_as_the_sampler_does(playground: Playground, sampler: Sampler) -> None:
    answer = ask(playground, "/write", {"text": "the ", "max_new_tokens": 30, "temperature": 0.5, "seed": 3})
    expected = sampler.generate("the ", max_new_tokens=30, temperature=0.5, seed=3)
    assert (answer.status, answer.headers["Seed"]) == (200, "3")
    assert "the " + answer.text == expected


def test_it_tells_the_seed_that_it_drew(playground: Playground) -> None:
    first = ask(playground, "/write", {"text": "the ", "max_new_tokens": 40})
    again = ask(playground, "/write", {"text": "the ", "max_new_tokens": 40, "seed": int(first.headers["Seed"])})
    assert again.text == first.text
    assert ask(playground, "/write", {"text": "the ", "max_new_tokens": 40}).text != first.text


def test_it_looks_inside_the_end_of_a_text(playground: Playground, sampler: Sampler) -> None:
    """As many tokens as the model reads at once, so that there is always attention to see."""
    answer = ask(playground, "/look", {"text": TEXT})
    assert answer.status == 200
    options = {"stride": sampler.stride, "start_id": sampler.start_id}
    assert answer.text == read(sampler.model, TOKENIZER, TEXT[-BLOCK:], **options).page()
    assert "blocks.0.attention, head 0" in answer.text


def test_readers_and_writers_take_turns(playground: Playground) -> None:
    """What each gets is what it would get alone."""
    request = {"text": "fox ", "max_new_tokens": 60, "seed": 1}
    alone = ask(playground, "/write", request).text, ask(playground, "/look", {"text": "fox"}).text
    found: list[str] = []
    work = [
        threading.Thread(target=lambda path, body: found.append(ask(playground, path, body).text), args=each)
        for each in [("/write", request), ("/look", {"text": "fox"})] * 3
    ]
    for each in work:
        each.start()
    for each in work:
        each.join()
    assert sorted(found) == sorted([*alone] * 3)


def test_the_end_of_the_block_ends_all_texts() -> None:
    sampler, drawn = Sampler(make_gpt(), TOKENIZER), list[int]()
    real = sampler.model.compute_logits

    def count(*values: Any, **named: Any) -> Any:
        drawn.append(1)
        return real(*values, **named)

    sampler.model.compute_logits = count  # type: ignore[method-assign]
    with Playground(sampler) as playground:
        request = {"text": "the ", "max_new_tokens": MOST_TOKENS}
        writer = threading.Thread(target=ask, args=[playground, "/write", request])
        writer.start()
        while len(drawn) < 5:
            time.sleep(0.01)
    before = len(drawn)
    writer.join(30)
    assert before == len(drawn) < MOST_TOKENS


def test_an_error_of_a_foreign_part_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(make_gpt(), TOKENIZER)
    monkeypatch.setattr(sampler, "stream", lambda *_, **__: 1 / 0)
    with Playground(sampler) as playground:
        answer = ask(playground, "/write", WRITE)
    assert (answer.status, json.loads(answer.text)["error"]) == (500, "ZeroDivisionError: division by zero")


def test_a_client_that_leaves_ends_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    def endless(*_: Any, **__: Any) -> Iterator[str]:
        nonlocal drawn
        while True:
            drawn += 1
            yield "x" * 1000

    sampler = Sampler(make_gpt(), TOKENIZER)
    monkeypatch.setattr(sampler, "stream", endless)
    with Playground(sampler) as playground:
        connection = http.client.HTTPConnection("127.0.0.1", playground.port, timeout=30)
        connection.request("POST", "/write", b'{"text": ""}', {"Content-Type": JSON})
        answer = connection.getresponse()
        assert answer.read(10) == b"x" * 10
        answer.close()
        connection.close()
        end, before = time.monotonic() + 30, -1
        while drawn != before and time.monotonic() < end:
            before = drawn
            time.sleep(0.2)
        assert drawn == before


# --- refusals ---------------------------------------------------------------------------------------------------------

WRITE = {"text": "the ", "max_new_tokens": 2}
REFUSED = {
    "another host": (403, "/write", WRITE, {"Host": "evil.example"}),
    "another host, page": (403, "/", None, {"Host": "evil.example:80"}),
    "another origin": (403, "/write", WRITE, {"Origin": "http://evil.example"}),
    "no origin of a frame": (403, "/look", {"text": "the"}, {"Origin": "null"}),
    "a secure origin": (403, "/write", WRITE, {"Origin": "https://127.0.0.1"}),
    "a form": (403, "/write", b"text=the", {"Content_Type": "application/x-www-form-urlencoded"}),
    "plain text": (403, "/write", WRITE, {"Content_Type": "text/plain"}),
    "too long": (413, "/write", b"{" + b" " * (1 << 20), {}),
    "a byte too long": (413, "/write", b" " * (MOST_BYTES + 1), {}),
    "no length": (411, "/write", WRITE, {"Content_Length": "-1"}),
    "no JSON": (400, "/write", b"{'text': 'the'}", {}),
    "no UTF-8": (400, "/write", b'{"text": "\xff"}', {}),
    "no object": (400, "/write", ["the "], {}),
    "deep JSON": (400, "/write", b"[" * 60000, {}),
    "unknown character": (400, "/write", {"text": "ż"}, {}),
    "unknown character inside": (400, "/look", {"text": "the ż"}, {}),
    "unknown setting": (400, "/write", {"text": "the ", "promt": 1}, {}),
    "no text": (400, "/look", {}, {}),
    "a setting of another request": (400, "/look", {"text": "the", "seed": 1}, {}),
    "truth for a number": (400, "/write", {"text": "the ", "seed": True}, {}),
    "a number as text": (400, "/look", {"text": 3}, {}),
    "too many tokens": (400, "/write", {"text": "the ", "max_new_tokens": MOST_TOKENS + 1}, {}),
    "words for a number": (400, "/write", {"text": "the ", "max_new_tokens": "many"}, {}),
    "nothing for a number": (400, "/write", {"text": "the ", "temperature": None}, {}),
    "negative temperature": (400, "/write", {"text": "the ", "temperature": -1}, {}),
    "a list as the prompt": (400, "/write", {"text": ["the ", "fox"]}, {}),
    "another page": (404, "/etc/passwd", None, {}),
    "another request": (404, "/train", {}, {}),
}


@broken_by(faults.strangers_are_answered, only="another host")
@broken_by(faults.strangers_are_answered, only="another origin")
@pytest.mark.parametrize(("status", "path", "body", "headers"), REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses(status: int, path: str, body: Any, headers: dict[str, str], playground: Playground) -> None:
    answer = ask(playground, path, body, **headers)
    assert answer.status == status, answer.text
    assert json.loads(answer.text)["error"]
    assert "Traceback" not in answer.text
    assert ask(playground, "/write", WRITE).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_knows_no_other_method(method: str, playground: Playground) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", playground.port, timeout=30)
    connection.request(method, "/")
    assert connection.getresponse().status == 501
    connection.close()


def test_its_own_origin_is_no_stranger(playground: Playground) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:{playground.port}", "Origin": f"http://{name}:{playground.port}"}
        assert ask(playground, "/write", WRITE, **own).status == 200


def test_a_port_in_use_is_refused(playground: Playground, sampler: Sampler, unchecked_types: None) -> None:
    with pytest.raises(ConfigError, match=f"port must be free, got port={playground.port}"):
        Playground(sampler, port=playground.port).__enter__()
    with pytest.raises(InputTypeError, match=r"sampler must be a Sampler, got 'run'; use"):
        Playground("run")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="port must be an integer from 0 to 65535, got port=70000"):
        Playground(sampler, port=70000)


def test_the_model_is_left_as_it_was(sampler: Sampler) -> None:
    sampler.model.train()
    with Playground(sampler) as playground:
        ask(playground, "/write", WRITE)
        ask(playground, "/look", {"text": "the "})
    assert sampler.model.training
    sampler.model.eval()


def test_ctrl_c_ends_the_waiting(playground: Playground) -> None:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    playground.wait()


# --- in a browser -----------------------------------------------------------------------------------------------------

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
WRITTEN = "document.getElementById('written').textContent"
STATUS = "document.getElementById('status').textContent"
FRAME = "document.getElementById('look').srcdoc"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return a browser."""
    with Browser() as found:
        yield found


@pytest.fixture
def browser(chromium: Browser, playground: Playground) -> Browser:
    """Return the browser with a fresh page of the playground."""
    chromium.show()
    chromium.open(playground.url)
    return chromium


@in_a_browser
def test_it_writes_and_looks_while_one_types(browser: Browser, playground: Playground) -> None:
    """The text field has the focus at once."""
    browser.type("the quick ")
    browser.wait(f"{WRITTEN}.length > 20")
    browser.wait(f"{FRAME}.length > 1000")
    browser.wait(f"{STATUS}.startsWith('seed')")
    assert browser.run(f"{WRITTEN}.length") == 200
    assert browser.run("document.title") == "a </script> fox - tinygpt playground"
    assert browser.console == []
    assert all(each.startswith((playground.url, "about:", "data:")) for each in browser.requests)


@in_a_browser
def test_the_keyboard_alone_is_enough(browser: Browser) -> None:
    """Tab reaches each control; Ctrl+Enter writes, Escape stops, and the text can be added."""
    browser.run("document.getElementById('live').checked = false")
    browser.type("fox ")
    browser.press("Enter", control=True)
    browser.wait(f"{STATUS}.startsWith('seed')")
    written = browser.run(WRITTEN)
    seen = []
    for _ in range(7):  # the next one is in the frame, a document of its own
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.id"))
    assert seen == ["temperature", "tokens", "live", "write", "stop", "keep", "written"]
    browser.run("document.getElementById('keep').focus()")
    browser.press("Enter")
    assert browser.run("document.getElementById('text').value") == "fox " + written
    browser.wait("document.activeElement.id === 'text'")


@in_a_browser
def test_a_problem_is_told_on_the_page(browser: Browser) -> None:
    browser.type("fox ż")
    browser.wait(f"{STATUS}.includes('U+017C')")
    browser.press("Home")
    assert browser.run(f"{WRITTEN}") == ""


@in_a_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(dark: bool, browser: Browser, tmp_path: Path) -> None:
    browser.show(width=390, height=844, dark=dark)
    browser.type("the ")
    browser.wait(f"{FRAME}.length > 1000")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    ink, paper = browser.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert (max(_numbers(ink)) < 128) is not dark
    assert (min(_numbers(paper)) > 128) is not dark
    assert browser.picture(tmp_path / "phone.png").stat().st_size > 5000


def _numbers(colour: str) -> list[int]:
    return [int(each) for each in colour.removeprefix("rgb(").removesuffix(")").split(",")]
