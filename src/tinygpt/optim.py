"""Optimizers: Muon, AdamW, and the parameter groups that decay."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw as take_adamw_step

from tinygpt.errors import ConfigError, InputTypeError, check_number, check_truth, listed, short, warn
from tinygpt.layers.roles import gains_in, matrices_in, tables_in, unknown_in
from tinygpt.sharded_tensors import apply_to_whole, is_sharded, local, rows_of


def _without_compiler(name: str) -> Callable[..., Any]:
    """Return the function inside a method of PyTorch's optimizers.

    The method imports the compiler when it is first called, which takes seconds and memory.
    """
    method = getattr(torch.optim.Optimizer, name)
    inner: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return inner


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters in two groups, the first with weight decay.

    Matrices, stacks of matrices and the kernels of convolutions decay: all parameters of two or more dimensions except
    tables and the gains of norms. Weight decay keeps matrices small. A gain or a bias has no reason to be near zero,
    and a row of a table would shrink in every step without its id. A tied LM head counts as a table. Frozen parameters
    are left out.

    Args:
        model: A language model names its tables in :meth:`tinygpt.LanguageModel.table_parameters`. The tables of any
            other module are the parameters of its embedding layers.
        weight_decay: Weight decay of the first group.

    Example:
        >>> [group["weight_decay"] for group in parameter_groups(nn.Linear(3, 2), 0.1)]
        [0.1, 0.0]
    """
    still = _ids(_ask(model, "table_parameters", tables_in)) | _ids(gains_in(model))
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim < 2 or id(parameter) in still].append(parameter)
    return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]


def _ask(model: nn.Module, method: str, default: Callable[[nn.Module], Any]) -> Any:
    """Return the parameters that a language model names, or the default of any other module."""
    return getattr(model, method, partial(default, model))()


def _ids(parameters: Iterable[Tensor]) -> set[int]:
    return set(map(id, parameters))


def adamw(
    model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over :func:`parameter_groups`, fused where the device supports it.

    Source:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2017. https://arxiv.org/abs/1711.05101
    """
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in model.parameters())
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


class Muon(torch.optim.Optimizer):
    """Moves groups with ``"is_muon": True`` by Muon, and the others by AdamW.

    Muon orthogonalises the momentum of a matrix: all its directions become about equally long, so that a few large ones
    do not hide the many small ones. That takes about half the steps of AdamW. Each matrix of a stack moves separately.

    Args:
        groups: Parameter groups, as :func:`muon` makes them. Each may have its own value of any option below except
            ``dtype``. A Muon group holds parameters of shape ``(..., R, C)``: matrices or stacks of matrices.
        lr: Learning rate.
        momentum: Decay rate of Muon's mean of gradients.
        betas: Decay rates of AdamW's two means.
        eps: Added to AdamW's denominator.
        weight_decay: Weight decay in each step, as a share of ``lr``.
        dtype: Dtype in which the momentum is orthogonalised; by default that of the parameters. ``torch.bfloat16`` is
            precise enough, and fast on hardware that supports it.

    Raises:
        InputTypeError: If a group is not a dict, or ``dtype`` is not a floating-point dtype.
        ConfigError: If a Muon group holds a vector or a scalar, or a number is out of range.

    Source:
        Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
        https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        dtype: torch.dtype | None = None,
    ) -> None:
        groups = list(groups)
        if not all(isinstance(group, dict) and "params" in group for group in groups):
            raise InputTypeError(
                f"groups must be mappings with 'params', optim.muon(model, ...) makes them, got {short(groups)}"
            )
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputTypeError(f"dtype must be a dtype of floating point or None, got {short(dtype)}")
        self.dtype = dtype
        defaults: dict[str, Any] = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, defaults | {"weight_decay": weight_decay, "is_muon": False})

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle."""
        return super().__getstate__() | {"dtype": self.dtype}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; without ``is_muon``, AdamW moves it.

        Raises:
            ConfigError: If a Muon group holds a vector or a scalar, or a number is out of range.
        """
        _without_compiler("add_param_group")(self, param_group)
        try:
            _check_group(self.param_groups[-1])
        except BaseException:
            del self.param_groups[-1]
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, as every optimizer of PyTorch does."""
        state: dict[str, Any] = _without_compiler("state_dict")(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the state and the groups from those of an optimizer with groups of the same sizes."""
        _without_compiler("load_state_dict")(self, state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all parameters that have a gradient.

        Args:
            closure: Computes the loss and its gradients; called first, if given.

        Returns:
            The result of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["is_muon"]:
                self._move_matrices(parameters, group)
            else:
                self._move_others(parameters, group)
        return loss

    def _move_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        # Stack all matrices of one shape, so that each operation runs once for all of them.
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.numel():
                is_cut = parameter.ndim == 2 and is_sharded(parameter)  # a sharded stack has whole matrices
                kind = (*parameter.shape[-2:], is_cut, parameter.dtype, parameter.device)
                alike.setdefault(kind, []).append(parameter)
        momentum, lr = group["momentum"], float(group["lr"])
        for (rows, columns, is_cut, *_), some in alike.items():
            weights = [local(parameter) for parameter in some]
            gradients = [local(parameter.grad) for parameter in some if parameter.grad is not None]
            means = [local(self._state(parameter, "momentum_buffer")["momentum_buffer"]) for parameter in some]
            torch._foreach_lerp_(means, gradients, 1 - momentum)
            # Nesterov momentum: the mean after one more gradient like this one.
            ahead = _stack(gradients).lerp_(_stack(means), momentum)  # N R C, or the rows that this process holds
            fast = ahead.to(self.dtype or ahead.dtype)
            turned = apply_to_whole(orthogonalise, fast, some[0]) if is_cut else orthogonalise(fast)
            pieces = turned.to(ahead.dtype).split([weight.shape[:-2].numel() for weight in weights])
            # Decay the weights, then move them. Tall matrices move further, so that all outputs change alike.
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            rate = lr * max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(weights, [x.view_as(w) for x, w in zip(pieces, weights, strict=True)], alpha=-rate)

    def _move_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state(parameter, "exp_avg", "exp_avg_sq") for parameter in parameters]
        for state in states:
            state.setdefault("step", torch.zeros((), dtype=torch.float32))
        take_adamw_step(
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, parameter: Tensor, *means: str) -> dict[str, Tensor]:
        """Return the state of a parameter; missing means start at zero."""
        state: dict[str, Tensor] = self.state[parameter]
        for mean in means:
            if mean not in state:
                state[mean] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _stack(tensors: list[Tensor]) -> Float[Tensor, "N R C"]:
    """Return the matrices of all tensors, each ``(..., R, C)``, as one stack."""
    return torch.cat([tensor.reshape(tensor.shape[:-2].numel(), *tensor.shape[-2:]) for tensor in tensors])


def _check_group(group: dict[str, Any]) -> None:
    """Raise unless the numbers of a group are in range, and a Muon group holds only matrices."""
    check_truth("is_muon", group["is_muon"])
    for name in ("lr", "eps", "weight_decay"):
        check_number(name, group[name], "of at least 0", lambda number: number >= 0)
    check_number("momentum", group["momentum"], "in [0, 1)", lambda share: 0 <= share < 1)
    betas = group["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ConfigError(f"betas must be a tuple of two numbers, got betas={short(betas)}")
    for beta in betas:
        check_number("betas", beta, "in [0, 1) each", lambda number: 0 <= number < 1)
    for parameter in group["params"] if group["is_muon"] else ():
        if parameter.ndim < 2 or not parameter.is_floating_point():
            raise ConfigError(
                f"Muon moves matrices, got a parameter of the shape {tuple(parameter.shape)} and {parameter.dtype}; "
                "it takes real ones of the shape (..., R, C); leave others to AdamW, in a group with is_muon=False"
            )
        if is_sharded(parameter) and rows_of(parameter) is None:
            raise ConfigError(
                "Muon moves whole parameters and those sharded by rows on one dimension of processes, got the "
                f"placements {short(parameter.placements)}; use fully_shard with a mesh of one dimension"
            )


def orthogonalise(matrices: Float[Tensor, "N R C"], steps: int = 5) -> Float[Tensor, "N R C"]:
    """Bring the singular values of each matrix near 1, and keep its singular vectors.

    With five steps in float32 or float64, a singular value of at least 0.002 of the Frobenius norm ends between 0.68
    and 1.21. A smaller one becomes at most 485 times its share of the norm, so directions that a gradient lacks stay
    near zero. In 16 bits rounding errors grow as well. A matrix with a norm below 1e-7 stays shorter, and zeros stay
    zero.

    Args:
        matrices: The matrices; each is treated separately.
        steps: Number of iterations, each a polynomial that brings the singular values nearer to 1.

    Example:
        >>> values = torch.linalg.svdvals(orthogonalise(torch.diag(torch.tensor([5.0, 1.0, 0.1, 0.0]))[None]))
        >>> [round(value, 1) for value in values[0].tolist()]
        [0.8, 0.7, 0.7, 0.0]

    Source:
        Jordan et al., *Muon*, 2024: the coefficients of the quintic Newton-Schulz iteration.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices  # the smaller of the two possible Gram matrices
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def muon(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    dtype: torch.dtype | None = None,
) -> Muon:
    """Return Muon for the matrices inside a model, and AdamW for its other parameters.

    AdamW moves tables, LM head, kernels of convolutions, biases and gains. The learning rate of the matrices is four
    times ``learning_rate``, so that one number needs tuning. :meth:`tinygpt.LanguageModel.matrix_parameters` names the
    matrices and stacks of matrices. A matrix with a single row or column is left to AdamW.

    Args:
        model: The model. A :class:`tinygpt.LanguageModel` names its LM head, tables and matrices. For any other module
            the types of the layers decide, with a warning.
        learning_rate: Learning rate of AdamW; 0.008 suits small models.
        betas: AdamW's two decay rates.
        weight_decay: Weight decay of the matrices.
        dtype: Dtype in which :class:`Muon` works; by default that of the matrices.

    Warns:
        UserWarning: If the model does not name its LM head, or the role of a bare parameter.
    """
    head = _ask(model, "head_parameters", lambda _: None)
    outside = _ids(head or ()) | _ids(_ask(model, "table_parameters", tables_in))
    said = _ids(_ask(model, "matrix_parameters", matrices_in)) - outside
    unknown = _ids(unknown_in(model)) - outside - said
    matrices: dict[str, nn.Parameter] = {}
    rest: dict[str, nn.Parameter] = {}
    doubtful: list[str] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            has_directions = parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1
            (matrices if has_directions and id(parameter) in said else rest)[name] = parameter
            if has_directions and id(parameter) in unknown:
                doubtful.append(name)
    _warn_of_guesses(model, [] if head is not None else list(matrices), doubtful)
    groups: list[dict[str, Any]] = [
        {"params": [*matrices.values()], "is_muon": True, "lr": 4 * learning_rate, "weight_decay": weight_decay},
        {"params": [*rest.values()], "lr": learning_rate, "weight_decay": 0.0},
    ]
    return Muon([group for group in groups if group["params"]] or groups, betas=betas, dtype=dtype)


def _warn_of_guesses(model: nn.Module, maybe_head: list[str], doubtful: list[str]) -> None:
    """Warn of parameters whose role the model does not name."""
    guesses = []
    if maybe_head:
        guesses.append(
            f"it orthogonalises {listed(maybe_head)}, one of which may be the LM head (return that from a method "
            "head_parameters)"
        )
    if doubtful:
        guesses.append(
            f"it leaves {listed(doubtful)} to AdamW (return matrices from matrix_parameters, tables from "
            "table_parameters)"
        )
    if guesses:
        warn(f"Muon guesses roles in {type(model).__name__}: {'; '.join(guesses)}")
