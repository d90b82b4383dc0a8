"""The directory of a run whose processes share the weights."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tinygpt.checkpoint import TRAINING
from tinygpt.errors import warn
from tinygpt.models import LanguageModel
from tinygpt.ranks import Ranks
from tinygpt.sharded_tensors import from_rows, is_sharded, share_of_rows
from tinygpt.training.run_directory import Accepted, RunDirectory
from tinygpt.training.shard_files import discard_save, next_save, write_manifest, write_rank


class ShardedRunDirectory(RunDirectory):
    """The directory of a run whose processes share the weights: each writes and reads its own rows.

    All processes must see the same directory.

    Args:
        path: The directory.
        ranks: The processes of the run.
        model: Its model.
    """

    def __init__(self, path: str | Path | None, ranks: Ranks, model: LanguageModel) -> None:
        super().__init__(path, ranks)
        self._model = model  # which is sharded only later

    @cached_property
    def _like(self) -> dict[str, Tensor]:
        """The sharded weights by all their names."""
        weights = self._model.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in weights.items() if is_sharded(tensor)}

    def save(self, step: int, tensors: Mapping[str, Tensor], payload: Mapping[str, Any], keep: int) -> str:
        """Write a checkpoint with all processes, remove older ones beyond ``keep``, and return its name."""
        assert self.path is not None
        directory, ranks = self.path / f"step-{step:08d}", self.ranks
        with self.locked():
            save = ranks.from_first(partial(next_save, directory))
            try:
                with ranks.together(), self._naming("write", directory):
                    digest = write_rank(directory, ranks.here, save, tensors, payload)
            except Exception:
                ranks.from_first(partial(self._discard, directory, save))
                raise
            digests = ranks.gather(digest)
            ranks.from_first(partial(self._commit, directory, step, save, digests, keep))
        return directory.name

    def _discard(self, directory: Path, save: int) -> None:
        try:
            discard_save(directory, save)
        except OSError as error:
            warn(f"cannot remove an incomplete checkpoint: {error}")

    def _commit(self, directory: Path, step: int, save: int, digests: list[str], keep: int) -> None:
        with self._naming("write", directory):
            write_manifest(directory, step, save, digests)
        self._prune(step, keep, directory)

    def newest(self, accept: Callable[[Path, dict[str, Any], dict[str, Tensor]], Accepted]) -> Accepted:
        """Return the result of ``accept`` for the newest valid checkpoint; each process reads its rows."""
        names = self.ranks.from_first(self._names)

        def restore(path: Path) -> Accepted:
            with self.ranks.together():
                payload, tensors = self._own_rows(path)
            return accept(path, payload, tensors)  # takes a step on trial, for which the processes exchange matrices

        return self._first_valid([(self.path or Path()) / name for name in names], restore)[1]

    def _names(self) -> list[str]:
        self._check_begun()
        return [path.name for path in self.checkpoints()]

    def _own_rows(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the payload of a checkpoint, and the rows of this process as sharded tensors."""
        here, world = self.ranks.here, self.ranks.world
        mesh: Any = next(iter(self._like.values())).device_mesh  # type: ignore[attr-defined]
        sizes = {len(tensor) for tensor in self._like.values()}
        payload, found, counts = self._read(path, partial(share_of_rows, here=here, world=world), sizes)
        tensors = {}
        for name, tensor in found.items():
            if name in counts:
                tensors[name] = from_rows(tensor, counts[name], mesh)
            elif self._is_like_a_weight(name, tensor):  # in the file of a run that was not sharded
                first, end = share_of_rows(len(tensor), here, world)
                tensors[name] = from_rows(tensor[first:end].clone(), len(tensor), mesh)
            else:
                tensors[name] = tensor
        return payload, tensors

    def _is_like_a_weight(self, name: str, tensor: Tensor) -> bool:
        """Return whether a tensor is a sharded weight, or belongs to one and has its shape."""
        own = name.removeprefix(TRAINING)
        names = (like for like in self._like if own == like or own.endswith(f"/{like}"))
        return any(self._like[like].shape == tensor.shape for like in names)
