"""Compiling: what does not work is one warning, and an error of the function's own is not hidden."""

from typing import Any

import pytest
import torch
from torch import nn

from tinygpt.compiling import compile_loops, compile_or_warn


def test_an_error_of_the_model_is_not_taken_for_one_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    call = compile_or_warn(nn.Linear(2, 2))
    call(torch.zeros(1, 2))
    with pytest.raises(RuntimeError):
        call(torch.zeros(1, 3))


def test_what_is_compiled_is_asked_for_no_truth_value(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiled:
        calls = 0

        def __call__(self, *inputs: Any) -> Any:
            self.calls += 1
            return inputs

        def __len__(self) -> int:  # as PyTorch's own wrapper
            raise TypeError("does not support len()")

    compiled = Compiled()
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled)
    call = compile_or_warn(nn.Linear(2, 2))
    assert call(1) == call(1) == (1,)
    assert compiled.calls == 2


def test_a_way_to_compile_that_fails_is_a_warning_and_the_function_is_called_once() -> None:
    def broken(function: Any) -> Any:
        raise ImportError("no compiler in this build")

    calls: list[int] = []
    call = compile_or_warn(calls.append, broken)
    with pytest.warns(UserWarning, match="going on without: .*no compiler in this build"):
        call(1)
    call(2)
    assert calls == [1, 2]


def test_a_compiler_that_fails_at_a_later_call_is_a_warning_too() -> None:
    class CompilerError(RuntimeError):
        __module__ = "torch._inductor.exc"

    def only_once(function: Any) -> Any:
        def compiled(number: int) -> int:
            if number > 1:
                raise CompilerError("another size does not compile")
            return number

        return compiled

    call = compile_or_warn(lambda number: -number, only_once)
    assert call(1) == 1
    with pytest.warns(UserWarning, match="going on without: .*another size does not compile"):
        assert call(2) == -2
    assert call(1) == -1


def test_settings_that_a_version_of_the_compiler_lacks_or_has_as_another_type_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Older:
        @staticmethod
        def get_config_copy() -> dict[str, Any]:
            return {"realize_reads_threshold": 4, "cpp.enable_floating_point_contract_flag": False}

    def watch(function: Any, *, options: dict[str, Any], **others: Any) -> Any:
        assert options == {"realize_reads_threshold": 0}
        return function

    monkeypatch.setattr("torch._inductor.config", Older)
    monkeypatch.setattr(torch, "compile", watch)
    assert compile_loops(abs) is abs
