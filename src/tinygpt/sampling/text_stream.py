"""Tokens to text during generation: certain text goes out, half characters and stop strings wait."""

from tinygpt.tokenizer import Tokenizer, decode_ids

DECODED_TOGETHER = 16  # ids: few enough that decoding them again for each new one costs little


class Pieces:
    """Turns ids into text, holding back what is not yet certain: half a character, half a stop string.

    Args:
        tokenizer: Turns ids into text.
        prompt: The text before the first; a stop string may begin in it, but not end.
        before: The id before the first.
        stops: Texts at which to stop.
        together: How many ids to decode at a time; 1 gives out each as soon as it is certain.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, before: int, stops: list[str], together: int = 1) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._reach = max((len(stop) - 1 for stop in stops), default=0)
        self._given = prompt[len(prompt) - self._reach :] if self._reach < len(prompt) else prompt  # its end only
        self._together = together
        self._known = 0  # characters of the text of `_ids` that were given out
        self._restart(before)
        self._waiting = 0  # ids that are not decoded yet
        self._held = ""
        self.stopped = False

    def add(self, new: int, *, last: bool) -> str:
        """Take an id, and return the text that is certain now: all of it, if it is the last."""
        self._ids.append(new)
        self._waiting += 1
        if self._waiting < self._together and not last:
            return ""
        self._waiting = 0
        text = decode_ids(self._tokenizer, self._ids)
        if not text.endswith("\ufffd") or last:  # else the bytes of a character are incomplete
            self._held += text[self._known :]
            self._known = len(text)
            if len(self._ids) >= DECODED_TOGETHER:
                self._restart(new)
        text = self._given + self._held
        begun = len(self._given)
        starts = {stop: text.find(stop, max(0, begun - len(stop) + 1)) for stop in self._stops}
        found = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        self.stopped = bool(found)
        if found:  # the one that is complete first, whatever the ids that it came in
            certain = max(begun, min(found)[1])
        else:
            certain = len(text) if last else max(begun, len(text) - self._may_be_stop(text))
        self._held = text[certain:]
        self._given = text[max(0, certain - self._reach) : certain]
        return text[begun:certain]

    def _restart(self, before: int) -> None:
        """Go on from one id, which is decoded again with the next: a tokenizer may treat the first id specially."""
        self._ids = [before]
        self._known = len(decode_ids(self._tokenizer, self._ids))

    def _may_be_stop(self, text: str) -> int:
        """Return the length of the longest end of a text that a stop string starts with."""
        for length in range(min(self._reach, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
