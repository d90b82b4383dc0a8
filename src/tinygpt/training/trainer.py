"""The training loop, one step at a time for a loop of your own, and :meth:`Trainer.fit` to run it to its end."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinygpt.checkpoint import distinct
from tinygpt.data import TokenDataset
from tinygpt.errors import (
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    RankLostError,
    check_integer,
    check_number,
    check_truth,
    checked_names,
    cut,
    short,
    show,
    warn,
)
from tinygpt.models import GPTLanguageModel, LanguageModel
from tinygpt.models.inspection import config_of
from tinygpt.randomness import derive_seed
from tinygpt.ranks import join
from tinygpt.runtime import choose_device, choose_precision, keep_freed_memory
from tinygpt.sampling import Sampler
from tinygpt.tokenizer import check_trained_with, symbols_of
from tinygpt.training.baseline import bigram_loss
from tinygpt.training.batches import check_batches, windows_of
from tinygpt.training.config import TrainerConfig, check_config
from tinygpt.training.history import Evaluation, History, Loss
from tinygpt.training.pace import Pace
from tinygpt.training.preparation import (
    check_checkpoint_size,
    check_schedule,
    is_exact,
    micro_batches,
    optimizer_for,
    share_weights,
    window_length,
)
from tinygpt.training.progress import Progress
from tinygpt.training.resume import RunRecord, RunState
from tinygpt.training.run_directory import RunDirectory
from tinygpt.training.run_settings import RunSettings
from tinygpt.training.sharded_run_directory import ShardedRunDirectory
from tinygpt.training.sharding import check_shardable, readable, shard
from tinygpt.training.signals import Interruption, deferring_signals, finishing_the_step
from tinygpt.training.step import Objective, Step, Stepper
from tinygpt.windows import Batch

_EVALUATED = 1 << 20  # tokens of a split in an evaluation, so that its time is bounded


class Trainer:
    """Trains any language model on a dataset.

    :func:`~tinygpt.training.plain_loop` defines the steps it takes. Every random choice is a function of the seed and
    the step: evaluations, previews, and your own random numbers do not change the resulting weights.

    Started by ``torchrun``, each process makes the same trainer, and they train one model together: see
    :doc:`/scale`.

    Args:
        model: Any language model. It is moved to the device.
        data: The corpus.
        config: How to train; the defaults are the ones to recommend.
        run_dir: Directory to write to, created if needed: ``config.json``, ``metrics.jsonl`` with a line for each step
            and each evaluation, ``best.safetensors``, and the checkpoints ``step-*.safetensors`` from which the run
            resumes. None writes nothing.
        make_optimizer: Makes the optimizer from the model, in place of the config's; the learning rates of its groups
            are the peaks of the schedule.
        lr_schedule: Maps a step, counted from 0, to the factor for the learning rate of each group, as
            :class:`torch.optim.lr_scheduler.LambdaLR` does; in place of the config's schedule.
        batches: Maps a step, counted from 0, to a batch to train on, two tensors of integers ``(x, y)`` of shape
            ``B T``; in place of windows of the data, which is then only measured. It returns the same batch whenever it
            gets the same step, so that a resumed run has the same batches.

    Raises:
        ConfigError: If the vocabularies of data and model differ, a window is longer than the model's ``block_size``,
            the optimizer belongs to another model, a step has two different ``batches``, or several processes differ or
            cannot share a batch.
        InputTypeError: If an argument has the wrong type.
        TokenizerError: If the model was trained with other symbols than those of the data's tokenizer.
        DataError: If a split is shorter than a window.
        ShapeError: If ``batches`` returns other shapes than ``B T``, or ids outside the vocabulary.
        DeviceError: If the device is not on this machine.
        RankLostError: If the processes of the run cannot be connected.
        CheckpointSaveError: If ``run_dir`` cannot be written to.

    Example:
        >>> data = TokenDataset("the quick brown fox jumps over the lazy dog. " * 20)
        >>> model = BigramLanguageModel(data.vocab_size)
        >>> trainer = Trainer(model, data, TrainerConfig(max_iters=50, batch_size=8, learning_rate=0.1))
        >>> history = trainer.fit(progress=False)
        >>> history.last.val_loss < history.evaluations[0].val_loss
        True
    """

    @checked_names
    def __init__(
        self,
        model: LanguageModel,
        data: TokenDataset,
        config: TrainerConfig | None = None,
        *,
        run_dir: str | Path | None = None,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        lr_schedule: Callable[[int], float] | None = None,
        batches: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._ranks = ranks = join()
        with ranks.together():
            self.config = config = check_config(config)
            self.block_size = window_length(model, data, config)
            if run_dir is not None:
                check_checkpoint_size(model, ranks.world if config.shard else 1)
            accumulation = micro_batches(config.accumulation, config.batch_size, ranks.world)
            self.data = data
            self.device = choose_device(config.device, local=ranks.local if ranks.world > 1 else None)
            dtype = choose_precision(config.precision, self.device, model)
            if config.shard and ranks.world > 1:
                check_shardable(model, self.device, dtype)
            self._lr_schedule = check_schedule(lr_schedule, config)
            make, batch = windows_of(data, config, self.block_size), None
            if batches is not None:
                make, batch = check_batches(batches, model)
        self.model = model
        self._run = self._directory(run_dir)
        model.to(self.device)
        share_weights(ranks, model)  # before the optimizer, which may copy them
        if config.shard:
            shard(model, ranks, self.device, dtype)
        with ranks.together():
            self.optimizer = optimizer_for(model, config, dtype, make_optimizer)
        first = self.optimizer.param_groups[0]
        peak = config.peak if make_optimizer is None else float(first.get("initial_lr", first["lr"]))
        self._objective = Objective(model, self.device, dtype, compile=config.compile, ranks=ranks)
        self._stepper = Stepper(
            self._objective,
            self.optimizer,
            make,
            config,
            schedule=self._lr_share,
            peak=peak,
            accumulation=accumulation,
        )
        self._record = RunRecord(
            model,
            self.optimizer,
            self._stepper.scaler,
            data,
            config,
            block_size=self.block_size,
            accumulation=accumulation,
            world=ranks.world,
            device=self.device,
            dtype=dtype,
            lr_schedule=lr_schedule,
            batch=batch,
            is_foreign=make_optimizer is not None,
        )
        ranks.compare(lambda: self._record.settings | {"corpus": self._record.corpus, "run_dir": str(self._run.path)})
        if ranks.world > 1 and not config.shard and not is_exact(accumulation, ranks.world):
            warn(
                "the weights will equal those of one process up to rounding only, with accumulation="
                f"{accumulation} on {ranks.world} processes; use a power of two for the same bits"
            )
        self._state = RunState(history=History(even_guess=math.log(data.vocab_size)))
        self._last: dict[str, Tensor] = {}  # weights of the last step, while the model has the best ones
        self._tokens_per_step = config.batch_size * self.block_size if batch is None else batch.y.numel()
        self._pace = Pace(config)
        self._has_begun = False
        self._has_unsaved = False
        self._has_fitted = False
        self._listener: Callable[[dict[str, Any]], object] | None = None  # of the records, while fit runs
        self._stepping = threading.RLock()

    def __repr__(self) -> str:
        where = "" if self._run.path is None else f", run_dir={self._run.shown}"
        return f"Trainer({type(self.model).__name__}, {self.steps_taken:,} of {self._end:,} steps{where})"

    def _repr_html_(self) -> str:
        """Return the state of the run, and its curve and verdict, for a notebook."""
        return f"<p>{escape(repr(self))}</p>{self.history._repr_html_()}"

    @property
    def history(self) -> History:
        """The record of the run so far."""
        return self._state.history

    @property
    def steps_taken(self) -> int:
        """Number of steps taken so far."""
        return self._state.step

    @property
    def run_dir(self) -> Path | None:
        """The directory of the run; it can be set until the run has written to one."""
        return self._run.path

    @run_dir.setter
    def run_dir(self, path: str | Path | None) -> None:
        if self._has_begun:
            raise ConfigError(
                f"run_dir must be set before the run begins, got run_dir={short(str(path))} for a run in "
                f"{self._run.shown}; make a new Trainer"
            )
        self._run = self._directory(path)

    def _directory(self, path: str | Path | None) -> RunDirectory:
        """Return a run directory for weights that are whole or shared by the processes."""
        if self.config.shard and self._ranks.world > 1:
            return ShardedRunDirectory(path, self._ranks, self.model)
        return RunDirectory(path, self._ranks)

    @checked_names
    def fit(
        self,
        *,
        resume: bool | Literal["auto"] = False,
        progress: bool = True,
        log: Callable[[dict[str, Any]], object] | None = None,
    ) -> History:
        """Train to the end, put the best weights into the model, and return the record of the run.

        Ctrl-C ends the run after the current step: it is saved, evaluated and returned. SIGTERM saves and ends the
        process. A second signal acts at once. The model is left in evaluation mode.

        Args:
            resume: Whether to resume the run in ``run_dir`` from its newest checkpoint: see :meth:`resume`.
                ``"auto"`` resumes if there is a checkpoint and starts otherwise, so that a notebook's cell can be run
                again.
            progress: Whether to show a bar with losses, speed and time left, the previews, and the verdict. A log file
                gets a line for each evaluation and the verdict.
            log: Called with each record of ``metrics.jsonl``, also without a ``run_dir``: a dict with ``"step"``, and
                with either the loss, learning rate and gradient norm of the step or the losses of an evaluation. After
                a resume, the steps past the checkpoint come again. Of several processes, only rank 0 calls it.

        Raises:
            ConfigError: If an argument is invalid, or as :meth:`resume` says.
            InputTypeError: If ``log`` is not a function.
            DataError: If no target of a batch has a loss.
            NonFiniteError: If a loss or gradient is NaN or infinite; a step that fails leaves the weights as they were.
            RunExistsError: If ``run_dir`` contains a run and ``resume`` is False, or a file it would overwrite.
            RunLockedError: If another trainer is using ``run_dir``.
            RankLostError: If another process of the run ended, or did not answer within ten minutes.
            CheckpointSaveError: If the first or the last checkpoint cannot be written, or ``run_dir`` was removed since
                the run began. Any other file that cannot be written is a warning.

        Warns:
            UserWarning: If a second call has no step left to take, with the way to train further. If ``log`` raises an
                exception; it is not called again.
        """
        if resume != "auto" and not isinstance(resume, bool):
            raise ConfigError(f"resume must be True, False or 'auto', got resume={short(resume)}")
        check_truth("progress", progress)
        if log is not None and not callable(log):
            raise InputTypeError(f"log must be a function of a record, e.g. records.append, got {short(log)}")
        resuming = resume is True or (resume == "auto" and not self._has_begun and self._run.has_checkpoints)
        starting = not (resuming or self._has_begun)
        self._listener = log
        try:
            with (
                self._run.locked(starting=starting, adopting=resuming),
                finishing_the_step(self._ranks) as interruption,
            ):
                if resuming:
                    self.resume()
                before = self.steps_taken
                shown = progress and self._ranks.is_first
                with Progress(self.history, self._end, before, is_shown=shown) as display:
                    for step in self._steps(interruption):
                        display.show_step(step, total=self._end)
                    interruption.agree()  # also on a signal after the last step
                    if interruption or self._has_unsaved:
                        saved = self.save()
                        if saved:
                            display.write(f"saved {saved}, from which the run resumes")
                    interruption.pass_on()
                    if self.history.last.step != self.steps_taken:
                        self._evaluate_now()
                    display.show_evaluations()
                    self.restore_best()
                    with self._continuing_unsaved():
                        self._run.save_best(self.model, self.data.tokenizer)
                    display.write(self.history.verdict)
                interruption.pass_on()  # a signal that came since
        finally:
            self._listener = None
            self.model.eval()
        if self._has_fitted and resume is False and self.steps_taken == before and not interruption:
            warn(self._nothing_left())
        self._has_fitted = True
        return self.history

    def __iter__(self) -> Iterator[Step]:
        """Take the remaining steps, one for each iteration: the body of your loop is the callback.

        Nothing happens before the first iteration. Break out and iterate again, or call :meth:`fit`, to go on. The
        model is in training mode during a step; between steps its mode is yours. Denormal floats are treated as zero
        inside a step. Ctrl-C acts between two steps, never inside one; a second one acts at once.
        """
        yield from self._steps()

    def _steps(self, interruption: Interruption | None = None) -> Iterator[Step]:
        """Take steps until the run ends, with what belongs to each: an evaluation, a checkpoint, a line of the log."""
        keep_freed_memory()
        with self._run.locked(starting=not self._has_begun):
            self._begin()
            while True:
                try:
                    with self._ranks.naming_lost():
                        self.history.stopped = reason = self._reason_to_stop(interruption)
                        step = None if reason else self._next_step()
                except RankLostError as error:
                    error.args = (f"{error}, after step {self.steps_taken}{self._last_saved()}",)
                    raise
                if step is None:
                    return
                yield step

    def _begin(self) -> None:
        """Save and evaluate before the first step; later, only put the weights of the last step back."""
        with self._stepping, self._ranks.naming_lost():
            self._pace.start(spent=self._state.seconds)
            if self.history.bigram is None:
                self.history.bigram = bigram_loss(self.data)
            self._swap_weights(best=False)
            if self.data.tokenizer is not None:
                check_trained_with(self.model, self.data.tokenizer)
                self.model.trained_symbols = symbols_of(self.data.tokenizer)
            if not self._has_begun:
                self.save()
            if not self.history.evaluations:
                self._evaluate_now()

    def _reason_to_stop(self, interruption: Interruption | None) -> str:
        """Return why the run stops before its last step, as ``history.stopped`` has it; empty if it goes on."""
        if self.steps_taken >= self._end:
            return ""
        if interruption is not None:
            interruption.agree()
        if interruption:
            return "interrupted"
        patience, evaluations = self.config.patience, self.history.evaluations
        if patience is not None and evaluations[-1].step == self.steps_taken:
            return "early" if len(evaluations) - 1 - evaluations.index(self.history.best) >= patience else ""
        return ""

    def _next_step(self) -> Step | None:
        """Take the next step if one is left. Threads take turns, and a signal waits until the step is recorded."""
        with self._stepping, deferring_signals():
            self._swap_weights(best=False)  # a loop may have asked for the best ones
            return self._advance() if self.steps_taken < self._end else None

    def _advance(self) -> Step:
        """Take one step, and evaluate and save where the intervals say so."""
        config, state = self.config, self._state
        try:
            step = self._stepper.take(state.step)
        except NonFiniteError as error:
            error.args = (f"{error}{self._last_saved()}",)
            raise
        state.step = step.number
        state.seconds += step.seconds
        state.history.add_loss(step.loss)
        if state.planned is None and config.max_seconds is not None:
            state.planned = self._ranks.from_first(lambda: self._pace.plan(step))
        record = {"loss": step.loss, "learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
        self._log({"step": step.number} | record)
        is_last = step.number == self._end
        if is_last or step.number % config.eval_interval == 0:
            step.evaluation = self._evaluate_now()
        if is_last or step.number % (config.save_interval or config.eval_interval) == 0:
            with self._continuing_unsaved():
                self.save()
        return step

    @property
    def _end(self) -> int:
        """The number of steps of the run: ``max_iters``, or as many as fit into ``max_seconds``."""
        return self.config.max_iters if self._state.planned is None else self._state.planned

    def _lr_share(self, step: int) -> float:
        """Return the learning rate of a step as a share of the peak."""
        if self._lr_schedule is None:
            return self.config.schedule(step, steps=self._state.planned)
        return check_number(f"lr_schedule({step})", self._lr_schedule(step), "of at least 0", lambda share: share >= 0)

    def resume(self) -> None:
        """Go back to the newest valid checkpoint in ``run_dir``.

        The run then continues as it would have: the same weights, optimizer, learning rates and losses, bit for bit, on
        the same device with the same versions and number of threads. The settings must be those of the run.
        ``learning_rate`` and its schedule, ``max_iters``, ``patience``, the intervals, ``keep_checkpoints``,
        ``preview_tokens``, ``device``, ``precision`` and ``compile`` may have changed, with a warning, and so may the
        settings of your own optimizer. The number of processes may change too, with a warning unless the result stays
        the same.

        Raises:
            ConfigError: If there is no ``run_dir``, or a setting that must stay the same has changed.
            CheckpointNotFoundError: If there is no checkpoint.
            CheckpointCorruptError: If every checkpoint is corrupt; a corrupt newer one is a warning.
            CheckpointMismatchError: If the model, the corpus, the tokenizer or the optimizer is another.
            RunLockedError: If another trainer is using ``run_dir``.
        """
        if self._run.path is None:
            raise ConfigError("to resume a run the trainer needs its run_dir, got run_dir=None")
        outside = torch.inference_mode(False)  # tensors made inside could not be trained
        with self._stepping, self._run.locked(adopting=True), outside, torch.enable_grad():
            restore = self._run.newest(self._record.unpack)
            self._state = restore()
            self._stepper.accumulation = self._record.accumulation
            self._last, self._has_begun = {}, True
            self._ranks.from_first(self._rewrite_log_and_settings)

    def _rewrite_log_and_settings(self) -> None:
        self._run.rewind_log(self.steps_taken, {evaluation.step for evaluation in self.history.evaluations})
        if self.data.file is not None or not self._run.is_described:  # the settings or the path may have changed
            self._run.describe(self._settings())

    def save(self) -> Path | None:
        """Write a checkpoint of the current step to ``run_dir``, from which :meth:`resume` goes on; return its path.

        The trainer does so at each ``save_interval``. Without a ``run_dir`` it returns None.

        Raises:
            CheckpointSaveError: If the file cannot be written; earlier checkpoints are intact.
        """
        if self._run.path is None:
            return None
        write = self._write_checkpoint
        with self._stepping:
            name = write() if self._objective.is_sharded else self._ranks.from_first(write)
            self._has_begun, self._has_unsaved = True, False
            return self._run.path / name

    def _write_checkpoint(self) -> str:
        """Write a checkpoint, and the settings of a new run; return the name of the file."""
        with self._ranks.together():
            tensors, payload = self._record.pack(self._state, self._last)
        with self._run.locked(starting=not self._has_begun):
            name = self._run.save(self.steps_taken, tensors, payload, self.config.keep_checkpoints)
            if not self._has_begun:  # the checkpoint comes first: it marks the directory as a run
                self._run.describe(self._settings())
        return name

    def _settings(self) -> RunSettings:
        """Return the settings that ``config.json`` holds."""
        model, sizes = self.model, None
        if isinstance(model, GPTLanguageModel) and config_of(model) is not None:
            sizes = model.config
        return RunSettings(
            trainer=self.config,
            model=sizes,
            text=self.data.file,
            val_fraction=self.data.val_fraction,
            parts=repr(model),
        )

    def sampler(self, **options: Any) -> Sampler:
        """Return a :class:`~tinygpt.Sampler` of the model and the data's tokenizer; ``options`` are the sampler's.

        Raises:
            ConfigError: If the data has no tokenizer.
        """
        if self.data.tokenizer is None:
            raise ConfigError("the data must have a tokenizer, got ids alone; use Sampler(trainer.model, tokenizer)")
        return Sampler(self.model, self.data.tokenizer, **options)

    def evaluate(self, split: str = "val") -> Loss:
        """Measure the loss on a whole split: every token predicted once, in consecutive windows, without randomness.

        Raises:
            ConfigError: If there is no such split.
            DataError: If it is shorter than a window.
            NonFiniteError: If the loss is not finite.
        """
        return self._loss(split, self.data.windows(split, **self._size))

    def estimate_loss(self, split: str = "val", iters: int = 200) -> Loss:
        """Estimate the loss as the notebook does, on ``iters`` random batches; always the same ones.

        Raises:
            ConfigError: If there is no such split, or ``iters`` is less than 1.
            DataError: If the split is shorter than a window.
            NonFiniteError: If the loss is not finite.
        """
        check_integer("iters", iters, minimum=1)
        seed = derive_seed(self.config.seed, "estimate")
        return self._loss(split, (self.data.batch(split, step=n, seed=seed, **self._size) for n in range(iters)))

    def restore_best(self) -> None:
        """Put the weights with the lowest validation loss into the model, as :meth:`fit` does at its end.

        Training goes on from the weights of the last step all the same.
        """
        with self._stepping:
            self._swap_weights(best=True)

    def _swap_weights(self, *, best: bool) -> None:
        """Put the best weights into the model and keep the last ones, or put the last ones back."""
        weights = self._state.best if best else self._last
        if best and weights and not self._last:
            self._last = _copies(self.model)
        if weights:
            self.model.load_state_dict(weights, strict=False)  # of tied weights there is one name
        if not best:
            self._last = {}

    @property
    def _size(self) -> dict[str, int]:
        return {"batch_size": self.config.batch_size, "block_size": self.block_size}

    def _loss(self, split: str, batches: Iterable[Batch]) -> Loss:
        """Return the mean loss over some batches of a split, if it is finite."""
        nats = self._objective.mean(batches)
        if not math.isfinite(nats):
            advice = ", or too large: use a lower learning rate" if self.steps_taken else ": check how the model starts"
            raise NonFiniteError(
                f"losses must be finite, got {nats} on the {split} split after step {self.steps_taken}; the weights "
                f"are probably not finite{advice}{self._last_saved()}"
            )
        return Loss.from_nats(nats, self.data.characters_per_id(split))

    def _evaluate_now(self) -> Evaluation:
        """Measure both losses, write a preview, and keep the weights if they are the best so far."""
        started = time.perf_counter()
        iters, state = self.config.eval_iters, self._state
        if iters is None:
            most = max(1, _EVALUATED // self.block_size)
            as_many = min(most, max(1, (len(self.data.val) - 1) // self.block_size))
            val_loss = self._loss("val", self.data.windows("val", limit=most, **self._size)).nats
            train_loss = self._loss("train", self.data.windows("train", limit=as_many, **self._size)).nats
        else:
            train_loss, val_loss = (self.estimate_loss(split, iters).nats for split in ("train", "val"))
        speed = state.step * self._tokens_per_step / state.seconds if state.seconds else 0.0
        share = self._lr_share(state.step - 1) if state.step else 0.0
        evaluation = Evaluation(state.step, train_loss, val_loss, state.seconds, speed, self._preview(), share)
        state.history.evaluations.append(evaluation)
        floors = {"even_guess": state.history.even_guess, "bigram": state.history.bigram}
        record = {name: value for name, value in (vars(evaluation) | floors).items() if name != "sample"}
        self._log({name: value for name, value in record.items() if value is not None})
        if state.history.best is evaluation:
            state.best = _copies(self.model)
            with self._continuing_unsaved():
                self._run.save_best(self.model, self.data.tokenizer)
        self._pace.evaluation = time.perf_counter() - started
        return evaluation

    def _log(self, record: dict[str, Any]) -> None:
        """Append a record to ``metrics.jsonl``, and pass it on; an exception of the user's function is a warning."""
        self._run.log(record)
        if self._listener is None or not self._ranks.is_first:
            return
        try:
            self._listener(dict(record))  # a copy: the user's function may change it
        except Exception as error:
            self._listener = None
            reason = f"{type(error).__name__}: {cut(str(error))}"
            warn(f"log failed at step {record['step']}: {reason}; the training goes on, and log is not called again")

    def _preview(self) -> str:
        """Return a text that the model generates; a failure of the tokenizer is a warning."""
        if not self.config.preview_tokens or self.data.tokenizer is None:
            return ""
        if not self._objective.is_sharded:
            return self._ranks.from_first(self._generate)
        with readable(self.model):  # on all ranks, which hold the weights together
            return self._generate()

    def _generate(self) -> str:
        seed = derive_seed(self.config.seed, "preview", self.steps_taken)
        try:
            return self.sampler().generate("", max_new_tokens=self.config.preview_tokens, seed=seed)
        except Exception as error:
            warn(f"there is no preview after step {self.steps_taken}: {type(error).__name__}: {cut(str(error))}")
            return ""

    def _nothing_left(self) -> str:
        """Return why no step was taken, and how to train further."""
        if self.steps_taken < self._end:
            reason, more = f"{self.config.patience} evaluations passed without a better one", "patience"
        else:
            more = "max_iters" if self._end == self.config.max_iters else "max_seconds"
            reason = f"all {self._end:,} steps are taken"
        way = "the same run_dir, and use fit(resume=True)" if self._run.path else "trainer.model, to train it further"
        return f"fit took no step: {reason}; make a Trainer with more {more} and {way}"

    def _last_saved(self) -> str:
        checkpoints = self._run.checkpoints()
        return f"; the last checkpoint is {show(checkpoints[0])}" if checkpoints else ""

    @contextmanager
    def _continuing_unsaved(self) -> Iterator[None]:
        """Turn a file that cannot be written into a warning; the run in memory goes on."""
        try:
            yield
        except (CheckpointSaveError, InputTypeError) as error:
            self._has_unsaved = True
            warn(f"{error}; the training goes on")


def _copies(model: LanguageModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in distinct(model).items()}
