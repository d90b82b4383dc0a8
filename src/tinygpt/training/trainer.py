"""The training loop: one step at a time for those who write the loop, and :meth:`Trainer.fit` for those who do not."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinygpt.checkpoint import TRAINING, config_of, distinct, pack, unpack_symbols
from tinygpt.data import Batch, TokenDataset
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    TinyGPTError,
    check_integer,
    check_truth,
    checked_names,
    cut,
    short,
    show,
    warn,
)
from tinygpt.models import LanguageModel
from tinygpt.models.base import WINDOW, check_model
from tinygpt.models.layouts import parts_of
from tinygpt.optim import adamw, make_optimizer, muon
from tinygpt.randomness import derive_seed
from tinygpt.runtime import choose_device, choose_precision, drawing_from, keep_freed_memory
from tinygpt.sampling import Sampler
from tinygpt.tokenizer import check_trained_with, symbols_of
from tinygpt.training.baseline import bigram_loss
from tinygpt.training.config import TrainerConfig, check_config
from tinygpt.training.history import Evaluation, History, Loss
from tinygpt.training.objective import Objective
from tinygpt.training.optimizer_state import (
    check_same_parameters,
    fitted,
    group_values,
    pack_optimizer,
    state_of,
    unpack_optimizer,
)
from tinygpt.training.progress import Progress
from tinygpt.training.resume import (
    check_same_run,
    check_training,
    check_weights,
    group_settings,
    pack_best,
    pack_history,
    run_settings,
    unpack_best,
    unpack_history,
    unpack_scaler,
)
from tinygpt.training.run_directory import RunDirectory, savable
from tinygpt.training.signals import deferring_signals, finishing_the_step
from tinygpt.training.step import Step, Stepper


class Trainer:
    """Trains any language model on a dataset.

    Every random choice is a function of the seed and the step: neither evaluations nor previews nor what your own
    code draws in between change the weights that come out.

    Args:
        model: Any language model. It is moved to the device.
        data: The corpus.
        config: How to train; the defaults are near the notebook's.
        run_dir: A directory to write to, made if needed: ``config.json``, ``metrics.jsonl`` with a line for each step
            and each evaluation, ``best.safetensors``, and the checkpoints ``step-*.safetensors`` from which the run
            can go on. None writes nothing.
        optimizer: Makes the optimizer from the model; by default the one that the config names. The schedule scales the
            learning rate of each of its groups.

    Raises:
        ConfigError: If data and model have other ids, a window is longer than the model reads, or the optimizer is
            one for another model.
        InputTypeError: If a part is of another kind.
        TokenizerError: If the model was trained with other symbols than those of the data's tokenizer.
        DataError: If a split is shorter than a window.
        DeviceError: If the device is not on this machine.
        CheckpointSaveError: If nothing can be written to ``run_dir``.

    Example:
        >>> text = "the quick brown fox jumps over the lazy dog. " * 20
        >>> data = TokenDataset(text, CharTokenizer.from_text(text))
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
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.config = config = check_config(config)
        self._run = RunDirectory(run_dir)
        self.block_size = self._check(model, data)
        self.device = choose_device(config.device)
        dtype = choose_precision(config.precision, self.device, model)
        self.model = model.to(self.device)
        config_then = config_of(model)
        # As the run begins: a loop may change a dropout, and it is still the same run.
        self._described = {"config": config_then, "parts": parts_of(model) if config_then is None else None}
        self.data = data
        self._size = {"batch_size": config.batch_size, "block_size": self.block_size}
        self.history = History(even_guess=math.log(data.vocab_size))
        self.steps_taken = 0
        self._groups: dict[str, Any] = {}  # settings of an optimizer that the config does not describe
        self._is_foreign = optimizer is not None
        if optimizer is None:
            fast = torch.bfloat16 if dtype == torch.bfloat16 else None
            make = partial(muon, dtype=fast) if config.optimizer == "muon" else adamw
            self.optimizer: torch.optim.Optimizer = make(
                model, learning_rate=config.peak, betas=config.decay_rates, weight_decay=config.weight_decay
            )
        else:
            self.optimizer = make_optimizer(optimizer, model)
            self._groups = group_settings(self.optimizer)
        self._made = group_values(self.optimizer)
        self._objective = Objective(self.model, self.device, dtype, compile=config.compile)
        peak = config.peak if optimizer is None else float(self.optimizer.param_groups[0]["lr"])
        self._stepper = Stepper(self._objective, self.optimizer, data, self._size, config, peak)
        self._seconds = 0.0
        self._best: dict[str, Tensor] = {}  # weights, each once
        self._last: dict[str, Tensor] = {}  # those of the last step, once the model has the best again
        self._has_begun = False
        self._has_unsaved = False
        self._stepping = threading.RLock()

    @checked_names
    def fit(self, *, resume: bool | Literal["auto"] = False, progress: bool = True) -> History:
        """Train to the end, put the best weights into the model, and say how it went.

        Ctrl-C ends it after the current step, as if that were the last: the result is saved, evaluated and returned.
        A request of the system to end (SIGTERM) saves and ends the process. A second signal acts at once. The model is
        left in evaluation mode.

        Args:
            resume: Whether to resume the run in ``run_dir`` exactly where its newest checkpoint stands: see
                :meth:`resume`. ``"auto"`` resumes if there is a checkpoint and starts otherwise, so that a cell of a
                notebook can be run again.
            progress: Whether to show a bar with losses, speed and time left, the previews, and the verdict.

        Raises:
            ConfigError: If an argument is invalid, or as :meth:`resume` says.
            NonFiniteError: If a loss or gradient is NaN or infinite; the weights are those before that step.
            RunExistsError: If ``run_dir`` contains a run that is not to be resumed, or a file it would overwrite.
            RunLockedError: If another trainer is at work in ``run_dir``.
            CheckpointSaveError: If the first checkpoint or the last one cannot be written, or ``run_dir`` was removed
                since the run began. One in between that fails is a warning, and so is any other file of the run.
        """
        if resume != "auto" and not isinstance(resume, bool):
            raise ConfigError(f"resume must be True, False or 'auto', got resume={short(resume)}")
        check_truth("progress", progress)
        resuming = resume is True or (resume == "auto" and not self._has_begun and bool(self._run.checkpoints()))
        starting = not (resuming or self._has_begun)
        try:
            with self._run.locked(starting=starting, adopting=resuming), finishing_the_step() as interruption:
                if resuming:
                    self.resume()
                display = Progress(self.history, self.config.max_iters, self.steps_taken, is_shown=progress)
                with display:
                    for step in self:
                        display.show_step(step)
                        if interruption:
                            self.history.stopped = "interrupted"
                            break
                    if interruption or self._has_unsaved:
                        saved = self.save()
                        if saved:
                            display.write(f"saved {saved}; fit(resume=True) resumes from there")
                    interruption.pass_on()
                    if self.history.last.step != self.steps_taken:
                        self._evaluate_now()
                    display.show_evaluations()
                    self._last = {name: value.detach().clone() for name, value in distinct(self.model).items()}
                    self.restore_best()
                    with self._going_on_unsaved():
                        self._run.save_best(self.model, self.data.tokenizer)
                    display.write(self.history.verdict)
                interruption.pass_on()  # also what came after the last step
        finally:
            self.model.eval()
        return self.history

    def __iter__(self) -> Iterator[Step]:
        """Take the steps that are left, one each time the loop comes round: your loop body is the callback.

        Nothing happens until it is iterated. Break out and iterate again, or call :meth:`fit`, to go on. The model is
        in training mode during a step and in whatever mode you leave it otherwise. Denormal floats are treated as zero
        inside a step. Ctrl-C acts between two steps, never inside one; a second one acts at once.
        """
        keep_freed_memory()
        with self._run.locked(starting=not self._has_begun):
            self._begin()
            is_done = self._is_out_of_patience()
            while not is_done and (step := self._next_step()):
                is_done = step.evaluation is not None and self._is_out_of_patience()
                yield step
            if self.steps_taken < self.config.max_iters:
                self.history.stopped = "early"

    def _begin(self) -> None:
        """Save and measure before the first step; later, only get the model ready for the next one."""
        with self._stepping:
            if self.history.bigram is None:
                self.history.bigram = bigram_loss(self.data)
            if self._last:
                self.model.load_state_dict(self._last, strict=False)
                self._last = {}
            if self.data.tokenizer is not None:
                check_trained_with(self.model, self.data.tokenizer)
                self.model.trained_symbols = symbols_of(self.data.tokenizer)
            if not self._has_begun:
                self.save()
            if not self.history.evaluations:
                self._evaluate_now()
            self.history.stopped = ""  # an interruption that came before is over

    def resume(self) -> None:
        """Go back to the newest checkpoint in ``run_dir`` that verifies.

        What follows is what would have followed there: the same weights, optimizer, learning rates and losses, bit for
        bit, on the same device with the same versions and number of threads. The settings must be those of the run.
        ``learning_rate`` and its schedule, ``max_iters``, ``patience``, the intervals, ``keep_checkpoints``,
        ``sample_length``, ``device``, ``precision`` and ``compile`` may have changed, and so may the settings of an
        optimizer of your own, with a warning that says so.

        Raises:
            ConfigError: If there is no ``run_dir``, or a setting is another that must not be.
            CheckpointNotFoundError: If there is no checkpoint.
            CheckpointCorruptError: If there are some but none verifies; newer ones that do not are a warning each.
            CheckpointMismatchError: If the model, the corpus, the tokenizer or the optimizer is another.
            RunLockedError: If another trainer is at work in ``run_dir``.
        """
        if self._run.path is None:
            raise ConfigError("to resume a run the trainer needs its run_dir, got run_dir=None")
        ungraphed = torch.inference_mode(False)  # whose tensors could not be trained
        with self._stepping, self._run.locked(adopting=True), ungraphed, torch.enable_grad():
            self._run.newest(self._restorable)()

    def _restorable(self, path: Path, payload: dict[str, Any], tensors: dict[str, Tensor]) -> Callable[[], None]:
        """Return a function that restores a checkpoint, once everything in it was compared with this trainer."""
        training = payload["training"]
        check_training(path, training)
        changed = check_same_run(path, payload, self.model, self._described, self.data, self._corpus, self._settings())
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
        check_weights(path, self.model, weights)
        steps = training["step"]
        symbols = unpack_symbols(path, payload, self.model)
        try:
            history = unpack_history(tensors, training["evaluations"], steps)
            best = unpack_best(tensors, weights) if history.evaluations else {}
            scaler = unpack_scaler(training["scaler"])
            state = unpack_optimizer(tensors, training["optimizer"])
            check_same_parameters(state, state_of(self.model, self.optimizer, self._made))
            with drawing_from(0, self.device):
                put_optimizer = fitted(
                    self.model, self.optimizer, state, steps=steps, is_foreign=self._is_foreign, kept=changed
                )
        except ValueError as error:
            if isinstance(error, TinyGPTError):
                raise
            raise CheckpointCorruptError(
                f"{show(path)} contains an invalid state of this run: {error}; use another copy, or an older checkpoint"
            ) from error

        def restore() -> None:
            if changed:
                warn(
                    "resuming with changed settings, so results will differ from an uninterrupted run: "
                    f"{'; '.join(changed.values())}"
                )
            put_optimizer()
            if scaler:  # a run in another precision has none, and this one starts with a new one
                self._stepper.scaler.load_state_dict(scaler)
            self.model.load_state_dict(weights, strict=False)  # names were checked; of tied weights the file has one
            self.history = replace(history, even_guess=self.history.even_guess)
            self.model.trained_symbols = symbols
            self._last, self._best = {}, best
            self.steps_taken, self._seconds = steps, training["seconds"]
            self._has_begun = True
            self._run.rewind_log(steps, {evaluation.step for evaluation in history.evaluations})

        return restore

    def save(self) -> Path | None:
        """Write a checkpoint of this very step to ``run_dir``, from which :meth:`resume` goes on. Return its path.

        One is written at each ``save_interval`` anyway. Without a ``run_dir`` there is nothing to do.

        Raises:
            CheckpointSaveError: If it cannot be written. All that was there is still there then.
        """
        if self._run.path is None:
            return None
        with self._stepping:
            weights, payload = pack(self.model, savable(self.data.tokenizer))
            weights |= {name: tensor.cpu() for name, tensor in self._last.items()}  # not the best, which fit put back
            payload |= self._described
            moments, optimizer = pack_optimizer(state_of(self.model, self.optimizer, self._made))
            losses, evaluations = pack_history(self.history)
            payload["training"] = {
                "step": self.steps_taken,
                "settings": self._settings(),
                "corpus": self._corpus,
                "evaluations": evaluations,
                "optimizer": optimizer,
                "scaler": self._stepper.scaler.state_dict(),
                "seconds": self._seconds,
            }
            tensors = weights | moments | losses | pack_best(self._best, weights)
            with self._run.locked(starting=not self._has_begun):
                path = self._run.save(self.steps_taken, tensors, payload, self.config.keep_checkpoints)
                if not self._has_begun:  # the checkpoint is the first file: one of another name is then another's
                    self._run.describe(self.config, self.model)
                    self._has_begun = True
            self._has_unsaved = False
            return path

    def evaluate(self, split: str = "val") -> Loss:
        """Measure the loss on a whole split: every id predicted once, in consecutive windows, without randomness.

        Raises:
            ConfigError: If there is no such split.
            DataError: If it is shorter than a window.
            NonFiniteError: If the loss is not finite.
        """
        return self._loss(split, self._mean(split, self.data.windows(split, **self._size)))

    def estimate_loss(self, split: str = "val", iters: int = 200) -> Loss:
        """Measure the loss as the notebook does, on ``iters`` random batches; always the same ones.

        Raises:
            ConfigError: If there is no such split, or ``iters`` is not at least 1.
            DataError: If it is shorter than a window.
            NonFiniteError: If the loss is not finite.
        """
        check_integer("iters", iters, minimum=1)
        seed = derive_seed(self.config.seed, "estimate")
        batches = (self.data.batch(split, step=step, seed=seed, **self._size) for step in range(iters))
        return self._loss(split, self._mean(split, batches))

    def _loss(self, split: str, nats: float) -> Loss:
        return Loss.from_nats(nats, self.data.characters_per_id(split))

    def _mean(self, split: str, batches: Iterable[Batch]) -> float:
        """Return the mean loss of some batches in nats, if it is finite."""
        nats = self._objective.mean(batches)
        if not math.isfinite(nats):
            advice = ", or too large: use a lower learning rate" if self.steps_taken else ": check how the model starts"
            raise NonFiniteError(
                f"losses must be finite, got {nats} on the {split} split after step {self.steps_taken}; the weights "
                f"are probably not finite{advice}{self._last_saved()}"
            )
        return nats

    def restore_best(self) -> None:
        """Put the weights with the lowest validation loss so far into the model; :meth:`fit` does so at its end."""
        with self._stepping:
            if self._best:
                self.model.load_state_dict(self._best, strict=False)  # of tied weights one is kept

    def _check(self, model: LanguageModel, data: TokenDataset) -> int:
        """Return the length of the windows, or raise for whatever would fail later, before anything is touched."""
        check_model("model", model)
        if not isinstance(data, TokenDataset):
            raise InputTypeError(
                f"data must be a TokenDataset, got {type(data).__name__}; use TokenDataset(text, tokenizer)"
            )
        fits = max(1, min(WINDOW, len(data.train) - 1, len(data.val) - 1))
        block_size = self.config.block_size or model.block_size or fits
        if model.block_size is not None and block_size > model.block_size:
            raise ConfigError(
                f"block_size must be at most the model's, got {block_size} and {model.block_size} in the model"
            )
        # Bare ids need not reach the last one of the vocabulary, a tokenizer must fit: the model is to write with it.
        if data.vocab_size > model.vocab_size or (data.tokenizer and data.vocab_size < model.vocab_size):
            raise ConfigError(
                f"the data must have the ids of the model, got vocab_size={data.vocab_size} in the data and "
                f"{model.vocab_size} in the model; use vocab_size=data.vocab_size for the model"
            )
        if data.tokenizer is not None:
            check_trained_with(model, data.tokenizer)
        for split in ("train", "val"):
            data.split(split, block_size)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError("the model must have a parameter that can move, got none; use model.requires_grad_(True)")
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ConfigError(
                "the model must be made outside of torch.inference_mode(), within which tensors cannot be trained; use "
                "copy.deepcopy(model) outside of it"
            )
        return block_size

    @cached_property
    def _corpus(self) -> str:
        return self.data.digest()

    def _settings(self) -> dict[str, Any]:
        dtype = self._objective.dtype
        return run_settings(self.config, self.block_size, self.device, dtype, self.optimizer, self._groups)

    def _is_out_of_patience(self) -> bool:
        """Return whether ``patience`` evaluations have passed since the best one."""
        evaluations, patience = self.history.evaluations, self.config.patience
        return patience is not None and len(evaluations) - 1 - evaluations.index(self.history.best) >= patience

    def _next_step(self) -> Step | None:
        """Take the next step, if one is left; several threads take turns, and a signal waits until it is recorded."""
        with self._stepping, deferring_signals():
            return self._advance() if self.steps_taken < self.config.max_iters else None

    def _advance(self) -> Step:
        """Take one step, and measure and save if it is time to."""
        config = self.config
        try:
            step = self._stepper.take(self.steps_taken)
        except NonFiniteError as error:
            error.args = (f"{error}{self._last_saved()}",)
            raise
        self.steps_taken = step.number
        self._seconds += step.seconds
        self.history.add_loss(step.loss)
        record = {"loss": step.loss, "learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
        self._run.log({"step": step.number} | record)
        is_last = step.number == config.max_iters
        evaluation = self._evaluate_now() if is_last or step.number % config.eval_interval == 0 else None
        if is_last or step.number % (config.save_interval or config.eval_interval) == 0:
            with self._going_on_unsaved():
                self.save()
        return replace(step, evaluation=evaluation)

    def _last_saved(self) -> str:
        checkpoints = self._run.checkpoints()
        return f"; the last checkpoint is {show(checkpoints[0])}" if checkpoints else ""

    @contextmanager
    def _going_on_unsaved(self) -> Iterator[None]:
        """Turn a file that cannot be written into a warning: that is no reason to lose what is in memory."""
        try:
            yield
        except (CheckpointSaveError, InputTypeError) as error:
            self._has_unsaved = True
            warn(f"{error}; the training goes on")

    def _evaluate_now(self) -> Evaluation:
        """Measure, write a preview, and keep the weights if they are the best so far."""
        iters = self.config.eval_iters
        if iters is None:
            as_many = max(1, (len(self.data.val) - 1) // self.block_size)
            val_loss = self._mean("val", self.data.windows("val", **self._size))
            train_loss = self._mean("train", self.data.windows("train", limit=as_many, **self._size))
        else:
            train_loss, val_loss = (self.estimate_loss(split, iters).nats for split in ("train", "val"))
        tokens = self.steps_taken * self.config.batch_size * self.block_size
        speed = tokens / self._seconds if self._seconds else 0.0
        share = self.config.schedule(self.steps_taken - 1) if self.steps_taken else 0.0
        evaluation = Evaluation(self.steps_taken, train_loss, val_loss, self._seconds, speed, self._preview(), share)
        self.history.evaluations.append(evaluation)
        self._run.log({name: value for name, value in vars(evaluation).items() if name != "sample"})
        if self.history.best is evaluation:
            self._best = {name: value.detach().clone() for name, value in distinct(self.model).items()}
            with self._going_on_unsaved():
                self._run.save_best(self.model, self.data.tokenizer)
        return evaluation

    def _preview(self) -> str:
        if not self.config.sample_length or self.data.tokenizer is None:
            return ""
        seed = derive_seed(self.config.seed, "preview", self.steps_taken)
        try:
            sampler = Sampler(self.model, self.data.tokenizer)
            return sampler.generate("", max_new_tokens=self.config.sample_length, seed=seed)
        except Exception as error:  # a tokenizer that cannot decode some id: no reason to lose a run
            warn(f"there is no preview after step {self.steps_taken}: {type(error).__name__}: {cut(str(error))}")
            return ""
