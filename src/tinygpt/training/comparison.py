"""Several models on the same data: which one has learnt more, at what cost, and how it writes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tinygpt.data import TokenDataset
from tinygpt.errors import ConfigError, InputTypeError, check_integer, checked_names, cut, short, warn
from tinygpt.models import LanguageModel
from tinygpt.models.base import check_model
from tinygpt.sampling import Sampler
from tinygpt.training.config import TrainerConfig, check_config
from tinygpt.training.history import History, Loss
from tinygpt.training.trainer import Trainer


@dataclass(frozen=True)
class Contender:
    """One model after its training.

    Attributes:
        name: What it was called in the call of :func:`compare`.
        parameters: How many numbers it learnt.
        loss: Its loss on the whole validation split, with its best weights.
        seconds: Time its training steps took.
        sample: What it writes.
        history: The record of its run.
    """

    name: str
    parameters: int
    loss: Loss
    seconds: float
    sample: str
    history: History


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; printed, it is a table and a sample of each model.

    Attributes:
        contenders: The models that were trained and measured, the best first.
        guess: The loss of guessing evenly among all ids, ``ln V`` nats.
        left_out: The names of the other models, each with the reason: its error, or an interruption.
    """

    contenders: list[Contender]
    guess: Loss
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{'':<16}{'nats':>8}{'bits/char':>11}{'perplexity':>12}{'parameters':>12}{'seconds':>9}"
        lines = [head, "-" * len(head)]
        for name, loss, parameters, seconds in [
            ("even guess", self.guess, 0, 0.0),
            *((c.name, c.loss, c.parameters, c.seconds) for c in reversed(self.contenders)),
        ]:
            numbers = f"{loss.nats:>8.4f}{loss.bits_per_character:>11.3f}{loss.perplexity:>12.2f}"
            lines.append(f"{name:<16}{numbers}{parameters:>12,}{seconds:>9.1f}")
        for contender in self.contenders:
            if contender.history.stopped == "interrupted":
                lines.append(f"{contender.name} was interrupted after step {contender.history.last.step:,}")
        lines += [f"{name} is left out: {reason}" for name, reason in self.left_out.items()]
        for contender in self.contenders:
            if contender.sample:
                lines += ["", f"--- {contender.name} writes:", contender.sample.strip()]
        return "\n".join(lines)


@checked_names
def compare(
    models: Mapping[str, LanguageModel],
    data: TokenDataset,
    config: TrainerConfig | Mapping[str, TrainerConfig] | None = None,
    *,
    prompt: str = "",
    sample_length: int = 300,
    temperature: float = 1.0,
    progress: bool = True,
) -> Comparison:
    """Train each model, measure it on the whole validation split, and let it write.

    All are trained and measured on windows of one length: the config's, or the shortest that all models read.

    A model that fails is left out, with a warning, and so is a sample that cannot be written. Ctrl-C ends the training
    of the present model, which is compared with what it has learnt, and leaves out the models after it.

    Args:
        models: The models by name.
        data: The corpus, the same for all.
        config: How to train, for all or for each by name: a table of bigrams wants another learning rate than a GPT.
        prompt: What the samples continue.
        sample_length: How many ids each model writes; 0 for none.
        temperature: Of the samples.
        progress: Whether to show each training.

    Raises:
        ConfigError: If the names of the configs are not those of the models, a model has two names, or a setting of
            the samples is out of range.
        InputTypeError: If ``models`` is not a mapping of language models, with at least one.
        TokenizerError: If the prompt has a symbol that the tokenizer does not know.
        Exception: The error of the first model, if all of them fail.

    Example:
        >>> text = "to be, or not to be: that is the question. " * 20
        >>> data = TokenDataset(text, CharTokenizer.from_text(text))
        >>> models = {"bigram": BigramLanguageModel(data.vocab_size)}
        >>> config = TrainerConfig(max_iters=200, batch_size=8, learning_rate=0.1)
        >>> comparison = compare(models, data, config, progress=False)
        >>> comparison.contenders[0].loss.nats < comparison.guess.nats
        True
    """
    if not isinstance(models, Mapping) or not models:
        raise InputTypeError(f'models must be models by name, e.g. {{"gpt": model}}, got {short(models)}')
    for name, model in models.items():
        check_model(f"models[{short(name)}]", model)
    if len(set(map(id, models.values()))) < len(models):
        raise ConfigError("models must be distinct, got the same one under two names; build each one separately")
    parameters = [id(parameter) for model in models.values() for parameter in model.parameters()]
    if len(set(parameters)) < len(parameters):
        raise ConfigError("models must not share parameters, got some that do; build the parts of each one separately")
    configs = config if isinstance(config, Mapping) else dict.fromkeys(models, check_config(config))
    if configs.keys() != models.keys():
        raise ConfigError(f"config must have the names {sorted(models)}, got {sorted(configs)}")
    lengths = [configs[name].block_size or model.block_size for name, model in models.items()]
    shortest = min(filter(None, lengths), default=None)
    trainers = {name: Trainer(models[name], data, replace(configs[name], block_size=shortest)) for name in models}
    check_integer("sample_length", sample_length, minimum=0)
    for trainer in trainers.values() if sample_length else ():
        _write(trainer, prompt, 1, temperature)  # what is wrong with the prompt shows before an hour of training
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    errors: list[Exception] = []
    is_interrupted = False
    for name, trainer in trainers.items():
        if is_interrupted:
            left_out[name] = "interrupted before its training"
            continue
        try:
            history = trainer.fit(progress=progress)
            is_interrupted = history.stopped == "interrupted"
            loss = trainer.evaluate("val")
        except KeyboardInterrupt:  # a second one, or while it was measured
            left_out[name], is_interrupted = "interrupted", True
            continue
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {cut(str(error))}"
            errors.append(error)
            warn(f"{short(name)} is left out of the comparison: {left_out[name]}")
            continue
        sample = ""
        try:
            sample = _write(trainer, prompt, sample_length, temperature)
        except KeyboardInterrupt:
            is_interrupted = True
        except Exception as error:
            warn(f"{short(name)} writes no sample: {type(error).__name__}: {cut(str(error))}")
        number = trainer.model.num_parameters()
        contenders.append(Contender(name, number, loss, history.last.seconds, sample, history))
    if errors and not contenders:
        raise errors[0]
    if not contenders:
        raise KeyboardInterrupt
    contenders.sort(key=lambda contender: contender.loss.nats)
    guess = Loss.from_nats(math.log(data.vocab_size), data.characters_per_id("val"))
    return Comparison(contenders, guess, left_out)


def _write(trainer: Trainer, prompt: str, length: int, temperature: float) -> str:
    """Return what the model of a trainer writes, if it has a tokenizer to write with."""
    if not length or trainer.data.tokenizer is None:
        return ""
    sampler = Sampler(trainer.model, trainer.data.tokenizer)
    return sampler.generate(prompt, max_new_tokens=length, temperature=temperature)
