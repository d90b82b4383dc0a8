"""Split a corpus, and cut it into batches of windows."""

import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tinygpt.corpora import TextFile, read_file
from tinygpt.documents import join_documents, join_examples, warn_if_unlike
from tinygpt.errors import (
    ConfigError,
    DataError,
    InputTypeError,
    check_choice,
    check_integer,
    check_number,
    checked_names,
    short,
)
from tinygpt.files import to_json
from tinygpt.fingerprints import entry_of
from tinygpt.ids import Ids
from tinygpt.mixtures import Mixture
from tinygpt.randomness import check_seed, derive_seed
from tinygpt.shards import Shard, check_shard, open_corpus, reading_ahead
from tinygpt.sources import as_ids, as_mask
from tinygpt.tokenizer import (
    CharTokenizer,
    Tokenizer,
    check_corpus,
    check_tokenizer,
    decode_ids,
)
from tinygpt.windows import Batch, Split

__all__ = ["TokenDataset"]

SPLITS = ("train", "val")
_DECODED = 1 << 16  # ids, to count their characters
_HASHED_TOGETHER = 1 << 24  # ids, so that a memory-mapped file is read in pieces


class TokenDataset:
    """Split a corpus into tokens to train on and tokens to validate on.

    An array of ids is not copied, so a memory-mapped file may be larger than memory.

    Args:
        source: A text, or token ids as a one-dimensional sequence, array, tensor, iterator or :class:`numpy.memmap`.
        tokenizer: Converts the text to ids, and later ids to samples. By default, a text gets a
            :class:`CharTokenizer` of its characters, and ids get none.
        val_fraction: Share of the corpus, at its end, for validation. The first ``int((1 - val_fraction) * n)`` of
            ``n`` tokens are the training split, as in the notebook and in nanoGPT.
        val: A corpus for validation, a text or ids as ``source`` is. ``source`` is then the training split.
        mask: Whether each token is a target, as a sequence of bools, as long as the ids. The others become targets of
            -100, which have no loss. By default all are targets.

    Attributes:
        splits: The ids, mask and rows of ``"train"`` and ``"val"``.
        tokenizer: The tokenizer, or None.
        vocab_size: Number of distinct ids ``V``: that of the tokenizer, or else the largest id plus one.
        val_fraction: Share of the corpus for validation.
        file: The :class:`~tinygpt.corpora.TextFile` that :meth:`from_file` read, otherwise None.

    Warns:
        UserWarning: If a text has other symbols at its end, the validation split, than before, as a sorted list has.

    Raises:
        InputTypeError: If ``source`` is neither a text nor integers, or is the name of a file.
        DataError: If ``source`` is empty, or contains ids that are negative or outside the tokenizer's vocabulary, or
            ``mask`` has another length or no target in a split.
        TokenizerError: If the tokenizer returns such ids for a text, or does not know a character.
        ConfigError: If ``val_fraction`` is outside ``[0, 1)``, or both ``val`` and ``mask`` are given.

    Example:
        >>> text = "to be, or not to be: " * 20
        >>> data = TokenDataset(text)
        >>> data
        TokenDataset(420 characters: 378 train, 42 val; vocab_size=9)
        >>> x, y = data.batch("train", step=0, batch_size=3, block_size=5)
        >>> x.shape, bool((x[:, 1:] == y[:, :-1]).all())
        (torch.Size([3, 5]), True)
    """

    @checked_names
    def __init__(
        self,
        source: str | Sequence[int] | np.ndarray | Tensor | Ids,
        tokenizer: Tokenizer | None = None,
        *,
        val_fraction: float = 0.1,
        val: str | Sequence[int] | np.ndarray | Tensor | Ids | None = None,
        mask: Sequence[bool] | np.ndarray | Tensor | None = None,
    ) -> None:
        check_number("val_fraction", val_fraction, "in [0, 1)", lambda share: 0 <= share < 1)
        if val is not None and mask is not None:
            raise ConfigError("val and mask cannot be combined, got both; use TokenDataset.from_examples(val=...)")
        corpora = {"source": source} if val is None else {"source": source, "val": val}
        texts = [check_corpus(name, each) for name, each in corpora.items() if isinstance(each, str)]
        if tokenizer is None and any(texts):
            tokenizer = CharTokenizer.from_text("".join(texts))
        checked = None if tokenizer is None else check_tokenizer(tokenizer)
        ids, *others = (as_ids(name, each, checked) for name, each in corpora.items())
        if not len(ids):
            raise DataError("corpus is empty, got 0 tokens; pass a text or ids with at least 2")
        largest = max(int(each.max(initial=0)) for each in (ids, *others))
        targets = None if mask is None else as_mask(mask, len(ids))
        # As int(0.9 * n) in the notebook and in nanoGPT. Rounding first makes 0.58 * 100 = 57.99999999999999 58.
        boundary = len(ids) if others else int(round((1 - val_fraction) * len(ids), 6))
        pieces = (ids[:boundary], others[0] if others else ids[boundary:])
        masks = (None, None) if targets is None else (targets[:boundary], targets[boundary:])
        for name, targets in zip(SPLITS, masks, strict=True):
            if targets is not None and len(targets) and not targets.any():
                raise DataError(f"mask must have a target in each split, got False for all {len(targets):,} of {name}")
        size = largest + 1 if checked is None else operator.index(checked.vocab_size)
        self._set(checked, size, *map(Split, pieces, masks))
        if not others:
            self.val_fraction = float(val_fraction)  # as given, not as rounded to a token
        if isinstance(source, str) and val is None:
            warn_if_unlike(*pieces, self.vocab_size)

    def _set(self, tokenizer: Tokenizer | None, vocab_size: int, train: Split, val: Split) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.splits = dict(zip(SPLITS, (train, val), strict=True))
        self.val_fraction = len(val.ids) / (len(train.ids) + len(val.ids))
        self.file: TextFile | None = None
        self._shards: Sequence[Shard] = ()
        self._digest: str | None = None
        self._characters: dict[str, float] = {}

    @classmethod
    def _of_splits(cls, tokenizer: Tokenizer, train: Split, val: Split) -> "TokenDataset":
        """Return a dataset of two splits that are ready."""
        if not len(train.ids):
            raise DataError("corpus is empty, got 0 tokens; pass a text or ids with at least 2")
        data = cls.__new__(cls)
        data._set(tokenizer, operator.index(tokenizer.vocab_size), train, val)
        return data

    @classmethod
    def from_documents(
        cls,
        texts: Iterable[str],
        tokenizer: Tokenizer | None = None,
        *,
        separator: str | None = None,
        val: Iterable[str] | None = None,
        val_fraction: float = 0.1,
        shuffle: bool = True,
        packing: bool = True,
        seed: int = 0,
    ) -> "TokenDataset":
        r"""Join documents, each with an end, and split between them.

        The documents are shuffled before they are split, since an order by name or date would give the two splits
        different content. Empty documents are left out.

        Args:
            texts: The documents.
            tokenizer: Converts a document to ids. By default, a :class:`CharTokenizer` of the characters, with the end
                ``"\x03"`` unless there is a separator.
            separator: Text after each document. By default it is the tokenizer's ``end_id``.
            val: Documents for validation. ``texts`` are then the training split.
            val_fraction: Share of the tokens for validation, up to the end of a document.
            shuffle: Whether the documents are shuffled.
            packing: Whether a window may go on in the next document. Without packing, a window begins within a document
                or at the end before it, and short documents are padded.
            seed: Number of the order.

        Raises:
            ConfigError: If a number is out of range, or the tokenizer has no ``end_id`` and there is no separator.
            DataError: If there are fewer than two documents to split.
            InputTypeError: If ``texts`` is one text, or contains anything but texts.
            TokenizerError: If a document has an unknown character or contains the end.

        Example:
            >>> names = ["emma", "olivia", "ava", "isabella", "sophia"]
            >>> data = TokenDataset.from_documents(names, val_fraction=0.2)
            >>> data
            TokenDataset(32 characters: 25 train, 7 val; vocab_size=12)
            >>> data.tokenizer.decode(data.val)
            'sophia\x03'
        """
        options: Any = {"val": val, "val_fraction": val_fraction, "shuffle": shuffle, "seed": seed}
        return cls._of_splits(*join_documents(texts, tokenizer, separator, packing=packing, **options))

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[tuple[str, str]],
        tokenizer: Tokenizer | None = None,
        *,
        separator: str | None = None,
        val: Iterable[tuple[str, str]] | None = None,
        val_fraction: float = 0.1,
        shuffle: bool = True,
        seed: int = 0,
    ) -> "TokenDataset":
        r"""Make a window of each prompt with its answer.

        Only the answer and its end are targets. The targets of the prompt and of the padding are -100.

        Args:
            examples: Pairs of a prompt and an answer.
            tokenizer: Converts texts to ids. By default, a :class:`CharTokenizer` of the characters, with the end
                ``"\x03"`` unless there is a separator.
            separator: Text after each answer. By default it is the tokenizer's ``end_id``.
            val: Examples for validation. ``examples`` are then the training split.
            val_fraction: Share of the tokens for validation, up to the end of an example.
            shuffle: Whether the examples are shuffled before they are split.
            seed: Number of the order.

        Raises:
            ConfigError: If a number is out of range, or the tokenizer has no ``end_id`` and there is no separator.
            DataError: If there are fewer than two examples to split, or a prompt is empty. An example that is longer
                than ``block_size + 1`` is an error when windows are made.
            InputTypeError: If an example is not a pair of texts.
            TokenizerError: If an example has an unknown character or contains the end.

        Example:
            >>> data = TokenDataset.from_examples([("2+3=", "5"), ("1+1=", "2")], val_fraction=0)
            >>> x, y = data.batch("train", step=0, batch_size=1, block_size=6)
            >>> y[0].tolist()[:3], data.tokenizer.decode(y[0, 3:5])
            ([-100, -100, -100], '2\x03')
        """
        options: Any = {"val": val, "val_fraction": val_fraction, "shuffle": shuffle, "seed": seed}
        return cls._of_splits(*join_examples(examples, tokenizer, separator, **options))

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, encoding: str = "utf-8", val_fraction: float = 0.1
    ) -> "TokenDataset":
        """Read a text file, with a :class:`CharTokenizer` of its characters.

        The dataset remembers the file, so that a run on it can be resumed without naming it again.

        Args:
            path: A file that :func:`~tinygpt.corpora.read_text` reads, with the same errors and warnings.
            encoding: Name of its encoding.
            val_fraction: Share of the text, at its end, for validation.

        Example:
            >>> path = getfixture("tmp_path") / "verse.txt"
            >>> _ = path.write_text("to be, or not to be: " * 20)
            >>> TokenDataset.from_file(path)
            TokenDataset(420 characters: 378 train, 42 val; vocab_size=9)
        """
        text, file = read_file(path, encoding=encoding)
        data = cls(text, val_fraction=val_fraction)
        data.file = file
        return data

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        *,
        vocab_size: int | None = None,
        val: str | os.PathLike[str] | None = None,
        val_fraction: float | None = None,
    ) -> "TokenDataset":
        """Open ids on the disk, which may be larger than memory.

        A corpus that :func:`~tinygpt.prepare` has made opens at once, however large it is. The ids of other files are
        checked whenever they are read.

        Args:
            path: A prepared directory, a directory with ``train.bin`` and ``val.bin`` as nanoGPT has, a file, or a
                pattern such as ``"fineweb_train_*.bin"``. The files have ids of 16 bits, or the header of llm.c and
                modded-nanogpt.
            tokenizer: The tokenizer of the ids. A prepared directory contains a tokenizer of tinygpt, and recognises
                any other.
            vocab_size: Number of distinct ids ``V``, at least that of the tokenizer, which is the default.
            val: A file or a pattern to validate on, if ``path`` is one too.
            val_fraction: Share of the ids, at their end, to validate on, if ``path`` is a file or a pattern and there
                is no ``val``. By default it is 0.1.

        Raises:
            ConfigError: If neither a tokenizer, ``vocab_size`` nor a manifest says how many ids there are, or
                ``vocab_size`` is too small, or a directory is given with ``val`` or ``val_fraction``.
            DataError: If there is no such file, or a file has another size than its header or the manifest says, or the
                manifest is invalid.
            TokenizerError: If the corpus was prepared with another tokenizer.

        Example:
            >>> path = getfixture("tmp_path") / "ids.bin"
            >>> np.array([0, 1, 2, 3] * 50, "<u2").tofile(path)
            >>> TokenDataset.open(path, vocab_size=4)
            TokenDataset(200 tokens: 180 train, 20 val; vocab_size=4)
        """
        stored = open_corpus(path, tokenizer, vocab_size=vocab_size, val=val, val_fraction=val_fraction)
        data = cls.__new__(cls)
        data._set(stored.tokenizer, stored.vocab_size, *map(Split, stored.splits))
        data._shards, data._digest, data._characters = stored.shards, stored.digest, dict(stored.characters)
        return data

    @classmethod
    def mix(
        cls, sources: Mapping[str, "TokenDataset"], *, weights: Mapping[str, float] | None = None
    ) -> "TokenDataset":
        """Draw each window of a batch from one of several datasets.

        A pass, as of :meth:`windows` and an evaluation, has all datasets in the order of their names. Each window lies
        in one of them. A row of a batch that keeps its dataset keeps its window when another dataset is added.

        Args:
            sources: The datasets by name, with one vocabulary. A dataset without validation split is only trained on.
            weights: How often each is drawn, as numbers above 0. By default they are the numbers of tokens, so that all
                windows are equally likely.

        Raises:
            ConfigError: If there is no dataset, the vocabularies differ, or a weight is missing or not above 0.
            InputTypeError: If ``sources`` is not a mapping of datasets by name.

        Example:
            >>> verse, prose = "to be, or not to be: " * 20, "be not to, or to not be. " * 20
            >>> tokenizer = CharTokenizer.from_text([verse, prose])
            >>> sources = {"verse": TokenDataset(verse, tokenizer), "prose": TokenDataset(prose, tokenizer)}
            >>> TokenDataset.mix(sources, weights={"verse": 0.7, "prose": 0.3})
            TokenDataset(920 characters of 2 datasets: 828 train, 92 val; vocab_size=10)
        """
        shares = _check_mixture(sources, weights)
        splits = []
        for name in SPLITS:
            parts = {source: data.splits[name] for source, data in sources.items() if len(data.splits[name].ids)}
            splits.append(Mixture(parts, shares) if parts else Split(np.empty(0, np.uint8)))
        data, first = cls.__new__(cls), next(iter(sources.values()))
        data._set(first.tokenizer, first.vocab_size, *splits)
        data._shards = [shard for each in sources.values() for shard in each._shards]
        digests = {name: [each.digest(), shares[name]] for name, each in sources.items()}
        data._digest = hashlib.sha256(to_json(digests).encode()).hexdigest()
        return data

    def verify(self) -> None:
        """Read every file of a corpus on the disk, and compare it with its manifest.

        A file without a manifest is only searched for ids outside the vocabulary. Ids in memory were checked when the
        dataset was made.

        Raises:
            DataError: If a byte has changed since the corpus was prepared, or an id is outside the vocabulary. The
                message names the file.
        """
        for shard in self._shards:
            check_shard(shard)

    def __repr__(self) -> str:
        sizes = [len(self.train), len(self.val)]
        rows = sum(len(split.lengths) for split in self.splits.values() if split.rows is not None)
        among = f" in {rows:,} rows" if rows else ""
        if isinstance(mixture := self.splits["train"], Mixture):
            among = f" of {len(mixture.sources)} datasets"
        shown = f"{sum(sizes):,} {self._unit}{among}: {sizes[0]:,} train, {sizes[1]:,} val"
        return f"TokenDataset({shown}; vocab_size={self.vocab_size})"

    def _repr_html_(self) -> str:
        sizes = {"train": len(self.train), "val": len(self.val)}
        total = sum(sizes.values())
        rows = "".join(f"<tr><td>{name}</td><td>{n:,}</td><td>{n / total:.1%}</td></tr>" for name, n in sizes.items())
        return (
            f"<p>TokenDataset: {total:,} {self._unit}, vocab_size={self.vocab_size}</p>"
            f"<table><tr><th>split</th><th>{self._unit}</th><th>share</th></tr>{rows}</table>"
        )

    @property
    def train(self) -> Ids:
        """The ids of the training split."""
        return self.splits["train"].ids

    @property
    def val(self) -> Ids:
        """The ids of the validation split."""
        return self.splits["val"].ids

    @property
    def _unit(self) -> str:
        return "characters" if isinstance(self.tokenizer, CharTokenizer) else "tokens"

    def split(self, name: str, *, block_size: int | None = None) -> Ids:
        """Return the ids of ``"train"`` or ``"val"``.

        Raises:
            ConfigError: If there is no such split.
            DataError: If the split is shorter than ``block_size + 1``, too short for a window, or an example is longer.
        """
        return self._split(name, block_size).ids

    def _split(self, name: str, block_size: int | None) -> Split:
        """Return a split, after the checks of :meth:`split`."""
        check_choice("split", name, SPLITS)
        block = None if block_size is None else check_integer("block_size", block_size, minimum=1)
        self.splits[name].check(name, block, len(self.train) + len(self.val))
        return self.splits[name]

    def batch(self, split: str, *, step: int, batch_size: int, block_size: int, seed: int = 0) -> Batch:
        """Return random windows, as a pure function of the arguments.

        Every window of the split can be drawn, and all are equally likely. In a run of several processes, each of
        them takes neighbouring rows.

        Args:
            split: ``"train"`` or ``"val"``.
            step: Number of the batch in the stream, from 0.
            batch_size: Number of windows ``B``.
            block_size: Length ``T`` of a window in tokens.
            seed: Number of the stream.

        Returns:
            ``(x, y)``, each ``B T`` int64 on the CPU.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``.
            ConfigError: If a number is out of range.
        """
        chosen = self._split(split, block_size)
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("step", step, minimum=0)
        return chosen.draw(check_seed(seed), split, step, batch_size, block_size)

    def epoch(
        self,
        split: str,
        *,
        batch_size: int,
        block_size: int,
        epoch: int = 0,
        stride: int | None = None,
        seed: int = 0,
    ) -> Iterator[Batch]:
        """Return an iterator over a split in random order, without replacement.

        Args:
            split: ``"train"`` or ``"val"``.
            batch_size: Number of windows ``B``; the last batch may have fewer.
            block_size: Length ``T`` of a window in tokens.
            epoch: Number of the pass, from 0. Each pass has its own order.
            stride: Distance in tokens between the starts of windows. By default it is ``block_size``, so that windows
                do not overlap, except the last one, which ends where the split ends. With 1, every window of the split
                comes once.
            seed: Number of the stream.

        Returns:
            Batches of ``B T`` int64 on the CPU.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``.
            ConfigError: If a number is out of range.

        Example:
            >>> data = TokenDataset(range(11), val_fraction=0)
            >>> sorted(x.tolist() for x, y in data.epoch("train", batch_size=1, block_size=4))
            [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[6, 7, 8, 9]]]
        """
        chosen = self._split(split, block_size)
        check_integer("batch_size", batch_size, minimum=1)
        stride = check_integer("stride", block_size if stride is None else stride, minimum=1)
        key = derive_seed(check_seed(seed), "epoch", split, epoch)
        return chosen.shuffle(key, batch_size, block_size, stride)

    def windows(self, split: str, *, batch_size: int, block_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Return an iterator over a split in order, each token predicted once.

        Args:
            split: ``"train"`` or ``"val"``.
            batch_size: Number of windows ``B``; the last batches may have fewer.
            block_size: Length ``T`` of a window in tokens; the last window may be shorter.
            limit: Largest number of windows, which are then spread evenly over the split; None for all.

        Returns:
            Batches of ``B T`` int64 on the CPU.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``.
            ConfigError: If a number is out of range.
        """
        chosen = self._split(split, block_size)
        check_integer("batch_size", batch_size, minimum=1)
        if limit is not None:
            check_integer("limit", limit, minimum=1)
        return chosen.in_order(batch_size, block_size, limit)

    def digest(self) -> str:
        """Return the SHA-256 of the ids, their dtype, the sizes of the splits, and their masks and rows.

        The digest of a prepared corpus is that of its manifest, which has the digests of its files.
        """
        if self._digest is not None:
            return self._digest
        digest = hashlib.sha256(f"{self.train.dtype.str} {len(self.train)} {len(self.val)}".encode())
        with reading_ahead(self._shards):
            for split in self.splits.values():
                for array in (split.ids, split.mask, *(split.rows or ())):
                    for start in range(0, 0 if array is None else len(array), _HASHED_TOGETHER):
                        digest.update(np.ascontiguousarray(array[start : start + _HASHED_TOGETHER]).data)
        return digest.hexdigest()

    def characters_per_id(self, split: str) -> float:
        """Return the mean number of characters per token of a split.

        It is 1 for a :class:`CharTokenizer` and without a tokenizer, and about 4 for byte-pair encodings. A prepared
        corpus has counted its characters. Of another split with more than 65,536 tokens, 64 pieces of 1,024 tokens are
        decoded, always the same, spread evenly over it.
        """
        ids = self.split(split)
        if self.tokenizer is None or isinstance(self.tokenizer, CharTokenizer):
            return 1.0
        if split not in self._characters:
            size = len(ids) if len(ids) <= _DECODED else _DECODED // 64
            starts = np.linspace(0, len(ids) - size, 1 if size == len(ids) else 64).astype(np.int64)
            texts = (decode_ids(self.tokenizer, ids[start : start + size].tolist()) for start in starts.tolist())
            self._characters[split] = sum(map(len, texts)) / (len(starts) * size)
        return self._characters[split]


def _check_mixture(sources: Any, weights: Any) -> dict[str, float]:
    """Return the share of each dataset of a mixture, after all checks of :meth:`TokenDataset.mix`."""
    if not isinstance(sources, Mapping) or not all(
        isinstance(name, str) and isinstance(data, TokenDataset) for name, data in sources.items()
    ):
        raise InputTypeError(f"sources must be TokenDatasets by name, got {short(sources)}")
    if not sources:
        raise ConfigError("sources must have a dataset, got an empty mapping")
    weights = {name: len(data.train) for name, data in sources.items()} if weights is None else weights
    if not isinstance(weights, Mapping) or weights.keys() != sources.keys():
        raise ConfigError(f"weights must have the names of the sources, {list(sources)}, got {short(weights)}")
    for name, weight in weights.items():
        check_number(f"weights[{name!r}]", weight, "above 0", lambda weight: weight > 0)
    first, *others = sources
    for name in others:
        ours, theirs = sources[first], sources[name]
        entries = [data.tokenizer and entry_of(data.tokenizer) for data in (ours, theirs)]
        if ours.vocab_size != theirs.vocab_size or entries[0] != entries[1]:
            raise ConfigError(
                f"datasets that are mixed must have one tokenizer, got vocab_size={ours.vocab_size} in {first!r} and "
                f"{theirs.vocab_size} in {name!r}, or other symbols; pass the same tokenizer to all"
            )
    if nested := [name for name, data in sources.items() if isinstance(data.splits["train"], Mixture)]:
        raise ConfigError(f"a mixture cannot be mixed again, got {nested[0]!r}; mix its datasets with weights of all")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
