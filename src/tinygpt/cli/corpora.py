"""The verb that prepares a corpus: prepare."""

import shlex
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tinygpt.cli.messages import note
from tinygpt.cli.reading import show
from tinygpt.errors import ConfigError


def prepare(
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT", help_behavior_hint="")],
    *,
    output: Annotated[str, arg(aliases=["-o"], metavar="CORPUS")] = "corpus",
    val_fraction: float = 0.1,
    shard_ids: int = 1 << 27,
) -> int:
    """Write texts that may be larger than memory to a directory that train reads.

    The symbols are the characters of the texts. A call that is stopped goes on where it was when it is repeated.

    Args:
        sources: Text files in UTF-8, folders of them, or patterns.
        output: The directory to write to.
        val_fraction: Share of the text, at its end, to validate on.
        shard_ids: Number of tokens in each file of the directory.
    """
    import tinygpt

    if not sources:
        raise ConfigError("prepare needs texts: tinygpt prepare TEXT -o CORPUS")
    if not output:
        raise ConfigError("-o must name a directory, got an empty text")
    data = tinygpt.prepare(list(sources), Path(output), val_fraction=val_fraction, shard_ids=shard_ids)
    show(f"{output}\n")
    note(f"{len(data.train):,} tokens to train on, {len(data.val):,} to validate on, {data.vocab_size} distinct")
    note(f"now try:\n  tinygpt train {shlex.quote(output)}")
    return 0
