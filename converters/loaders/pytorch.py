"""PyTorch models: programs of `torch.export.save` (`.pt2`), freed of what runs code and of what only training needs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import UnsupportedOperatorError
from converters.loaders.channels import channels_first, is_channel_first_image
from converters.loaders.pt2_archive import copy_safely
from converters.loaders.torch_lowering import Entry, to_tflite
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from converters.frontends.frontend import Tensor

Program = Any
"""A `torch.export.ExportedProgram`; the environment of this module's checks has no PyTorch."""
Module = Any
"""A `torch.fx.GraphModule`."""

_FIELD = "source"
_EVAL = "call model.eval() before torch.export.export"
_DTYPES = frozenset({"float32", "int32", "int64", "uint8", "int8", "bool"})
_TRAINING_FLAGS = {"dropout": 2, "dropout_": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5}
"""The argument of an operator that says whether it trains."""
_COUNTER = "num_batches_tracked"
"""What batch normalisation counts in training, and nothing reads at inference."""
_LOAD_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)


class PytorchSource:
    """An exported program, as it answers at inference."""

    def __init__(self, program: Program) -> None:
        import torch

        self._entries, self._batch = _entries(program)
        module = program.module(check_guards=False)
        # They check that the batch is the one of the export; whether the graph really needs that one, tracing tells.
        module._forward_pre_hooks.clear()  # noqa: SLF001 - the checks are a hook, and there is no switch for it
        self._operators = _histogram(module)
        self._removed = _remove_training(module)
        self._module = _flat(module, program)
        self._parameters = sum(
            int(tensor.numel()) for tensor in program.state_dict.values() if tensor.is_floating_point()
        )
        self._name = f"torch {torch.__version__}"

    @property
    def name(self) -> str:
        """Framework and version."""
        return self._name

    @property
    def parameters(self) -> int:
        """Floating-point numbers of the state dict: parameters, and what batch normalisation remembers."""
        return self._parameters

    @property
    def operators(self) -> Mapping[str, int]:
        """ATen operators as exported; one that trains says so."""
        return self._operators

    @property
    def removed(self) -> Sequence[str]:
        """Training-only operators."""
        return self._removed

    def to_tflite(self, batch: int | None) -> bytes:
        """Return the program as a float `.tflite`; images have their channels last there.

        Raises:
            InvalidInputError: the program cannot take that batch.
            UnsupportedOperatorError: names the operator.
            SchemeFailedError: litert-torch cannot convert the graph.
        """
        return to_tflite(lambda _: self._module, self._entries, batch)

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer in PyTorch; a program exported for one batch gets the items in batches of that size.

        Raises:
            InvalidInputError: the program cannot take these inputs.
        """
        samples = len(inputs[0])
        step = self._batch or max(samples, 1)
        pieces = [self._run([tensor[at : at + step] for tensor in inputs]) for at in range(0, samples, step)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        import torch

        count, tensors = len(inputs[0]), []
        for tensor, entry in zip(inputs, self._entries, strict=True):
            ordered = channels_first(tensor) if entry.image else tensor
            # The last batch may be short: filled up with its last item, whose further answers are dropped.
            missing = (self._batch or count) - count
            filled = np.concatenate([ordered, *[ordered[-1:]] * missing]) if missing else ordered
            tensors.append(torch.from_numpy(np.array(filled)).to(getattr(torch, entry.dtype)))
        try:
            with torch.no_grad():
                return [np.asarray(output)[:count] for output in self._module(*tensors)]
        except (RuntimeError, ValueError, IndexError) as exc:
            problem = f"PyTorch cannot answer {[item.shape for item in inputs]}: {_first_line(exc)}"
            raise InvalidInputError(field=_FIELD, problem=problem) from exc


def open_source(path: Path, scratch: Path) -> PytorchSource:
    """Open a `.pt2` file; nothing in it is run.

    Raises:
        InvalidInputError: no exported program, one that would run code, or of a form that no `.tflite` has.
        UnsupportedOperatorError: it draws random numbers, or writes to its own buffers.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    copy = scratch / "checked.pt2"
    copy_safely(path, copy)
    import torch

    try:
        program = torch.export.load(copy)
    except _LOAD_ERRORS as exc:
        problem = f"torch {torch.__version__} cannot open it: {_first_line(exc)}"
        raise InvalidInputError(field=_FIELD, problem=problem, remedy="export it with this version of PyTorch") from exc
    return PytorchSource(program)


def _entries(program: Program) -> tuple[list[Entry], int | None]:
    """Return what the program takes, and the batch that it was exported for; None where that is free."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [values[name] for name in program.graph_signature.user_inputs if isinstance(name, str) and name in values]
    if not tensors or len(tensors) != len(program.graph_signature.user_inputs):
        raise _refused("takes something that is no tensor", "let the model take tensors alone")
    entries, batches = [], []
    for tensor in tensors:
        shape = [size if isinstance(size, int) else None for size in getattr(tensor, "shape", ())]
        dtype = str(getattr(tensor, "dtype", "nothing")).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise _refused(f"takes {dtype}", "call model.float() before torch.export.export")
        sizes = tuple(size for size in shape[1:] if size is not None)
        if not shape or len(sizes) != len(shape) - 1:
            raise _refused(f"leaves an input's shape open: {shape}", "fix every size but the batch")
        entries.append(Entry(shape=sizes, dtype=dtype, image=is_channel_first_image(shape, dtype)))
        batches.append(shape[0])
    if len(set(batches)) > 1:
        raise _refused(f"takes inputs of different batches: {batches}", "let each input begin with the batch")
    return entries, batches[0]


def _histogram(module: Module) -> dict[str, int]:
    found = Counter(
        f"{_operator(node)} (training)" if _trains(node) else _operator(node)
        for node in module.graph.nodes
        if node.op == "call_function"
    )
    return dict(sorted(found.items()))


def _operator(node: Any) -> str:  # noqa: ANN401 - a torch.fx.Node
    name: str = getattr(node.target, "__name__", str(node.target))
    return name.split(".", 1)[0]


def _trains(node: Any) -> bool:  # noqa: ANN401 - a torch.fx.Node
    at = _TRAINING_FLAGS.get(_operator(node))
    return at is not None and len(node.args) > at and node.args[at] is True


def _remove_training(module: Module) -> list[str]:
    """Take out what only training needs, and refuse what would make two answers to one question."""
    removed: Counter[str] = Counter()
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        operator = _operator(node)
        if operator.rstrip("_").endswith("dropout") and operator in _TRAINING_FLAGS:
            removed[f"{operator} (training)" if _trains(node) else operator] += 1
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        # Without running means there is nothing but the batch's own to normalise with: so it is at inference, too.
        elif operator == "batch_norm" and _trains(node) and node.args[3] is not None:
            removed["batch_norm (training)"] += 1
            node.args = (*node.args[:5], False, *node.args[6:])
        elif _writes_to(node) is not None:
            _remove_counter(module, node)
        else:
            _check_determined(node)
    module.graph.lint()
    module.recompile()
    return [name if count == 1 else f"{name} x{count}" for name, count in sorted(removed.items())]


def _writes_to(node: Any) -> str | None:  # noqa: ANN401 - a torch.fx.Node
    """Return the buffer that an operator changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or not node.args:
        return None
    return str(node.args[0].target) if getattr(node.args[0], "op", "") == "get_attr" else None


def _remove_counter(module: Module, node: Any) -> None:  # noqa: ANN401 - a torch.fx.Node
    target = _writes_to(node) or ""
    if not target.endswith(_COUNTER) or node.users:
        raise UnsupportedOperatorError(f"the model writes to its own buffer {target}: {_EVAL}, or pass state as inputs")
    module.graph.erase_node(node)


def _check_determined(node: Any) -> None:  # noqa: ANN401 - a torch.fx.Node
    import torch

    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags and _operator(node) != "scaled_dot_product_attention":
        raise UnsupportedOperatorError(f"{_operator(node)} draws random numbers: {_EVAL}, or leave it out")
    if _operator(node) in {"_native_batch_norm_legit", "_native_batch_norm_legit_functional", "native_dropout"}:
        raise UnsupportedOperatorError(f"{_operator(node)} is of training: {_EVAL}")


def _flat(module: Module, program: Program) -> Module:
    """Return a module of plain inputs and a tuple of outputs, in the order of the graph."""
    import torch
    from torch.utils import _pytree as pytree

    in_spec = program.call_spec.in_spec

    class Flat(torch.nn.Module):  # type: ignore[misc]  # a class of PyTorch, unknown where this is checked
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:  # noqa: ANN401 - tensors
            arguments, named = pytree.tree_unflatten(list(inputs), in_spec)
            return tuple(pytree.tree_leaves(self.inner(*arguments, **named)))

    return Flat().requires_grad_(False)


def _refused(problem: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]
