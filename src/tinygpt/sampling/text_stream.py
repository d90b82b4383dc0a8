"""Text from tokens, one token at a time, with stop strings."""

from collections.abc import Sequence

from tinygpt.tokenizer import Tokenizer, decode_ids

DECODED_TOGETHER = 16  # tokens: few enough that decoding them again for each new one costs little


class Pieces:
    """Turns tokens into text, one at a time.

    Text that may be half a character or half a stop string is held back until it is certain.

    Args:
        tokenizer: Turns ids into text.
        prompt: The text before the first token. A stop string may begin in it, but not end in it.
        before: The id before the first token, or None.
        stops: Stop strings.
        together: How many tokens to decode at once; 1 returns each as soon as its text is certain.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: str, before: int | None, stops: Sequence[str], together: int = 1
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._reach = max((len(stop) - 1 for stop in stops), default=0)  # longest beginning of a stop string
        self._given = prompt[len(prompt) - self._reach :] if self._reach < len(prompt) else prompt
        self._together = together
        self._known = 0  # characters of the text of `_ids` that were taken over
        self._restart(before)
        self._waiting = 0  # tokens that are not decoded yet
        self._held = ""
        self.stopped = False

    def add(self, new: int | None, *, last: bool) -> str:
        """Append a token, or None for the end, and return the text that is certain now.

        After the last token all text is certain.
        """
        if new is not None:
            self._ids.append(new)
            self._waiting += 1
        if self._waiting < self._together and not last:
            return ""
        self._waiting = 0
        # Decode the latest tokens; U+FFFD at the end stands for a character whose bytes are incomplete.
        text = decode_ids(self._tokenizer, self._ids)
        if not text.endswith("\ufffd") or last:
            self._held += text[self._known :]
            self._known = len(text)
            if len(self._ids) >= DECODED_TOGETHER:
                self._restart(self._ids[-1])
        # Look for stop strings that end in the new text; they may begin in the text before it.
        text = self._given + self._held
        begun = len(self._given)
        starts = {stop: text.find(stop, max(0, begun - len(stop) + 1)) for stop in self._stops}
        found = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        self.stopped = bool(found)
        if found:  # cut at the one that ends first, whichever tokens its text came in
            certain = max(begun, min(found)[1])
        else:
            certain = len(text) if last else max(begun, len(text) - self._may_be_stop(text))
        self._held = text[certain:]
        self._given = text[max(0, certain - self._reach) : certain]
        return text[begun:certain]

    def _restart(self, before: int | None) -> None:
        """Drop all ids but one.

        It is decoded again with the next, since a tokenizer may treat the first id specially.
        """
        self._ids = [] if before is None else [before]
        self._known = len(decode_ids(self._tokenizer, self._ids)) if self._ids else 0

    def _may_be_stop(self, text: str) -> int:
        """Return the length of the longest end that begins a stop string."""
        for length in range(min(self._reach, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
