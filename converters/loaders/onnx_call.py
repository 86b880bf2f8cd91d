"""One node of an ONNX graph, as the functions that do its work in PyTorch see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters.failures import UnsupportedOperatorError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

TorchTensor = Any
"""A `torch.Tensor`; the environment of this module's checks has no PyTorch."""


class Call:
    """An operator with its attributes and inputs. What is known before any input comes can be asked for as numbers."""

    def __init__(
        self,
        *,
        operator: str,
        opset: int,
        attributes: Mapping[str, Any],
        inputs: Sequence[TorchTensor | None],
        numbers: Sequence[NDArray[Any] | None],
    ) -> None:
        self.operator, self.opset, self.inputs = operator, opset, inputs
        self._attributes, self._numbers = attributes, numbers

    def __getitem__(self, index: int) -> TorchTensor:
        """Return an input that must be there."""
        return self.inputs[index]

    def optional(self, index: int) -> TorchTensor | None:
        """Return an input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX's attributes are of many types
        """Return an attribute's value."""
        return self._attributes.get(name, default)

    def numbers(self, index: int, attribute: str = "") -> list[Any] | None:
        """Return an input's numbers, or those of the attribute that it once was; None where it is left out.

        Raises:
            UnsupportedOperatorError: the numbers depend on what the model is asked.
        """
        if attribute and attribute in self._attributes:
            return list(self._attributes[attribute])
        if self.optional(index) is None:
            return None
        numbers = self._numbers[index]
        if numbers is None:
            raise UnsupportedOperatorError(f"{self.operator} with sizes or axes that depend on the input")
        values: list[Any] = numbers.reshape(-1).tolist()
        return values

    def unsupported(self, what: str) -> UnsupportedOperatorError:
        """Return the error that says which kind of this operator there is none for."""
        return UnsupportedOperatorError(f"{self.operator} with {what}")
