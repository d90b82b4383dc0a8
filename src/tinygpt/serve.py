"""A local web page that writes with a model, and shows what the model expected.

.. code-block:: python

    from tinygpt.serve import Playground

    with Playground(trainer.sampler()) as playground:
        print(playground.url)
        playground.wait()
"""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from tinygpt.errors import ConfigError, InputTypeError, TinyGPTError, check_integer, checked_names, cut, short
from tinygpt.files import parse_json
from tinygpt.sampling import Sampler
from tinygpt.tokenizer import decode_ids, encode_text
from tinygpt.views import read

HOST = "127.0.0.1"
MOST_BYTES = 1 << 16  # of a request
MOST_DISCARDED = 1 << 24  # of a request that is refused
MOST_TOKENS = 2000  # of one continuation
MOST_SHOWN = 128  # tokens to look inside: the attention of each head grows with the square
MOST_CHARACTERS = 16 * MOST_SHOWN  # of a text that are encoded for it
NUMBERS = {"max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Playground:
    """A server of the page on this computer, for as long as the ``with`` block lasts.

    It answers only this computer, and only pages of its own. It writes nothing to the disk and does not train. The
    model must not be trained meanwhile.

    Args:
        sampler: The model and its tokenizer.
        port: Port of the server; 0 takes a free one.
        title: Name of the model, shown on the page.

    Raises:
        ConfigError: If the port is out of range, or in use when the block begins.
        InputTypeError: If ``sampler`` is not a Sampler.

    Example:
        >>> from tinygpt import BigramLanguageModel, CharTokenizer
        >>> sampler = Sampler(BigramLanguageModel(vocab_size=3), CharTokenizer("abc"))
        >>> with Playground(sampler) as playground:
        ...     print(playground.url.startswith("http://127.0.0.1:"))
        True
    """

    @checked_names
    def __init__(self, sampler: Sampler, *, port: int = 0, title: str = "a model") -> None:
        if not isinstance(sampler, Sampler):
            raise InputTypeError(f"sampler must be a Sampler, got {short(sampler)}; use Sampler.load(path)")
        self._sampler = sampler
        self._lock = threading.Lock()  # requests take turns, one token at a time
        self._is_open = False
        self._server: ThreadingHTTPServer | None = None
        self.port = check_integer("port", port, minimum=0, maximum=65535)
        page = files("tinygpt").joinpath("serve.html").read_text(encoding="utf-8")
        facts = {"title": title, "parameters": sampler.model.num_parameters(), "block_size": sampler.model.block_size}
        self.page = page.replace("FACTS", json.dumps(facts).replace("<", "\\u003c"), 1)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.port}/"

    def __enter__(self) -> "Playground":
        try:
            self._server = ThreadingHTTPServer((HOST, self.port), partial(_Handler, self))
        except OSError as error:
            raise ConfigError(f"port must be free, got port={self.port}: {error.strerror}; use port=0") from error
        self.port = self._server.server_address[1]
        self._is_open = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._is_open = False  # texts that are still being written end
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            pass  # the last token is drawn

    def wait(self) -> None:
        """Wait until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)  # on Windows, other ways to wait do not notice Ctrl-C

    def write(self, prompt: str, **options: Any) -> Iterator[str]:
        """Return an iterator over new text, as :meth:`tinygpt.Sampler.stream` does; requests take turns per token."""
        if check_integer("max_new_tokens", options.get("max_new_tokens", 200), minimum=0) > MOST_TOKENS:
            raise ConfigError(f"max_new_tokens must be at most {MOST_TOKENS}, got {options['max_new_tokens']}")
        return self._in_turns(self._sampler.stream(prompt, **options))

    def _in_turns(self, pieces: Iterator[str]) -> Iterator[str]:
        while True:
            with self._lock:
                piece = next(pieces, None) if self._is_open else None
            if piece is None:
                return
            yield piece

    def look(self, text: str) -> str:
        """Return the interactive page of the end of a text: its last tokens, at most as many as the model reads."""
        sampler = self._sampler
        ids = encode_text(sampler.tokenizer, text[-MOST_CHARACTERS:]).tolist()
        most = min(MOST_SHOWN, sampler.model.block_size or MOST_SHOWN)
        if len(ids) > most:
            text = decode_ids(sampler.tokenizer, ids[-most:])
        with self._lock:
            reading = read(sampler.model, sampler.tokenizer, text, stride=sampler.stride, start_id=sampler.start_id)
        return str(reading.page())


class _RefusedError(Exception):
    """A request that gets a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, playground: Playground, *connection: Any) -> None:
        self._playground = playground
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answered(self._get)

    def do_POST(self) -> None:
        """Write with the model, or look inside it."""
        self._answered(self._post)

    def _answered(self, answer: Any) -> None:
        """Answer a request; a refusal gets a status and a reason. Disconnected clients are ignored."""
        self._unread = self._length() or 0
        try:
            try:
                self._check_local()
                answer()
            except _RefusedError as refusal:
                self._refuse(refusal.status, str(refusal))
            except TinyGPTError as error:
                self._refuse(400, cut(str(error), 400))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # of a model or a tokenizer
                self._refuse(500, f"{type(error).__name__}: {cut(str(error), 400)}")
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _get(self) -> None:
        if self.path != "/":
            raise _RefusedError(404, "the only page is /")
        self.close_connection = True  # a body is not read
        self._send(200, "text/html", self._playground.page)

    def _post(self) -> None:
        if self.path not in ("/look", "/write"):
            raise _RefusedError(404, "requests go to /write or /look")
        request = self._request()
        text = request.pop("text", None)
        if not isinstance(text, str):
            raise _RefusedError(400, f"text must be a str, got {short(text)}")
        for name, value in request.items():
            if self.path == "/look" or name not in NUMBERS:
                raise _RefusedError(400, f"{self.path} has no setting {short(name)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _RefusedError(400, f"{name} must be a number, got {name}={short(value)}")
        if self.path == "/look":
            self._send(200, "text/html", self._playground.look(text))
        else:
            self._stream(text, **{"seed": secrets.randbits(32)} | request)

    def _stream(self, text: str, *, seed: int, **options: Any) -> None:
        """Send text as it is written, one chunk for each token."""
        pieces = self._playground.write(text, seed=seed, **options)
        first = next(pieces, "")  # before the status: the first token may fail
        self._begin(200, "text/plain", {"Transfer-Encoding": "chunked", "Seed": str(seed)})
        self._chunk(first)
        try:
            for piece in pieces:
                self._chunk(piece)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            self.close_connection = True  # without the last chunk, so that the client sees a failure
            return
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, piece: str) -> None:
        data = piece.encode("utf-8", "replace")
        if data:  # an empty chunk would end the answer
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _check_local(self) -> None:
        """Refuse requests that other sites make through the browser, also under a name that points here."""
        port = self._playground.port
        own = {f"{HOST}:{port}", f"localhost:{port}"}
        if port == 80:  # browsers leave it out
            own |= {HOST, "localhost"}
        if self.headers.get("Host") not in own:
            raise _RefusedError(403, f"Host must be {HOST}:{port}")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in own:
            raise _RefusedError(403, "Origin must be this page")

    def _request(self) -> dict[str, Any]:
        """Return the JSON object that was sent."""
        kind = self.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise _RefusedError(403, "Content-Type must be application/json")
        length = self._length()
        if length is None:
            raise _RefusedError(411, "Content-Length must be a number")
        if length > MOST_BYTES:
            raise _RefusedError(413, f"a request must have at most {MOST_BYTES} bytes")
        self._unread = 0
        try:
            request = parse_json(self.rfile.read(length).decode("utf-8"))
        except ValueError as error:
            raise _RefusedError(400, "the request must be JSON in UTF-8") from error
        if not isinstance(request, dict):
            raise _RefusedError(400, "the request must be a JSON object")
        return request

    def _length(self) -> int | None:
        """Return the length of the body that the client announces, in bytes."""
        length = self.headers.get("Content-Length", "")
        return int(length[:20]) if length.isascii() and length.isdecimal() else None

    def _refuse(self, status: int, reason: str) -> None:
        """Send a reason, read the rest of the request, and close the connection.

        A client that is still sending would otherwise not see the answer.
        """
        self.close_connection = True
        self._send(status, "application/json", json.dumps({"error": reason}), {"Connection": "close"})
        self.connection.settimeout(1)
        unread = min(self._unread, MOST_DISCARDED)
        while unread > 0 and (piece := self.rfile.read(min(unread, MOST_BYTES))):
            unread -= len(piece)

    def _send(self, status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        data = text.encode("utf-8", "replace")
        self._begin(status, kind, {"Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def _begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", **HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        """Name the server, without versions."""
        return "tinygpt"

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal belongs to the user."""
