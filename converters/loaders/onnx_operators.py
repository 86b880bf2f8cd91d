"""ONNX's operators on numbers and shapes, done in PyTorch; layers of networks are in `onnx_layers`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from converters.loaders.onnx_call import Call, TorchTensor

    Do = Callable[..., TorchTensor]

_OPSET_AXES_FREE = 13
"""Until then Softmax flattened all axes from its own on."""
_MAX_END = 2**31 - 1


def table() -> dict[str, Callable[[Call], Any]]:
    """Return the function that does each operator's work, by the operator's name."""
    return {**_unary(), **_binary(), **_reductions(), **_shapes()}


def _unary() -> dict[str, Callable[[Call], Any]]:
    import torch
    from torch.nn import functional as nn

    plain: dict[str, Do] = {
        "Abs": torch.abs,
        "Atan": torch.atan,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "HardSwish": nn.hardswish,
        "Identity": lambda value: value,
        "Log": torch.log,
        "Mish": nn.mish,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Round": torch.round,
        "Sigmoid": torch.sigmoid,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Softplus": nn.softplus,
        "Softsign": nn.softsign,
        "Sqrt": torch.sqrt,
        "Tanh": torch.tanh,
    }
    return {
        **{name: partial(_on_one, do) for name, do in plain.items()},
        "Elu": lambda call: nn.elu(call[0], call.attribute("alpha", 1.0)),
        "Celu": lambda call: nn.celu(call[0], call.attribute("alpha", 1.0)),
        "Selu": _selu,
        "LeakyRelu": lambda call: nn.leaky_relu(call[0], call.attribute("alpha", 0.01)),
        "PRelu": lambda call: torch.where(call[0] < 0, call[0] * call[1], call[0]),
        "Gelu": lambda call: nn.gelu(call[0], approximate=call.attribute("approximate", "none")),
        "HardSigmoid": lambda call: torch.clamp(
            call[0] * call.attribute("alpha", 0.2) + call.attribute("beta", 0.5), 0.0, 1.0
        ),
        "Softmax": lambda call: _along_axis(call, torch.softmax),
        "LogSoftmax": lambda call: _along_axis(call, torch.log_softmax),
        # At inference it does nothing; models that train have been refused.
        "Dropout": lambda call: call[0],
        "Clip": _clip,
        "Cast": _cast,
    }


def _selu(call: Call) -> TorchTensor:
    import torch

    alpha, gamma = call.attribute("alpha", 1.6732632), call.attribute("gamma", 1.0507010)
    return gamma * torch.where(call[0] > 0, call[0], alpha * torch.expm1(call[0]))


def _along_axis(call: Call, do: Callable[[TorchTensor, int], TorchTensor]) -> TorchTensor:
    value = call[0]
    if call.opset >= _OPSET_AXES_FREE:
        return do(value, call.attribute("axis", -1))
    axis = call.attribute("axis", 1) % value.dim()
    return do(value.flatten(axis), -1).reshape(value.shape)


def _clip(call: Call) -> TorchTensor:
    import torch

    low = call.attribute("min") if call.opset < 11 else call.optional(1)  # noqa: PLR2004 - attributes until opset 11
    high = call.attribute("max") if call.opset < 11 else call.optional(2)  # noqa: PLR2004
    if low is None and high is None:
        return call[0]
    bounds = [call.numbers(at)[0] if torch.is_tensor(item) else item for at, item in ((1, low), (2, high))]  # type: ignore[index]  # not left out
    return torch.clamp(call[0], *bounds)


def _cast(call: Call) -> TorchTensor:
    dtype = torch_dtype(call.attribute("to"))
    if dtype is None:
        raise call.unsupported("a type that PyTorch does not have")
    return call[0].to(dtype)


def torch_dtype(number: int) -> Any:  # noqa: ANN401 - a torch.dtype
    """Return PyTorch's type for ONNX's number of it; None where there is none."""
    import torch

    names = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
    # Doubles are computed in single precision, as everything is on the device.
    return getattr(torch, {**names, 11: "float32"}.get(number, ""), None)


def _binary() -> dict[str, Callable[[Call], Any]]:
    import torch

    plain: dict[str, Do] = {
        "Add": torch.add,
        "And": torch.logical_and,
        "Div": _divide,
        "Equal": torch.eq,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "MatMul": torch.matmul,
        "Mul": torch.mul,
        "Or": torch.logical_or,
        "Pow": _power,
        "Sub": torch.sub,
        "Xor": torch.logical_xor,
    }
    folded: dict[str, Do] = {"Min": torch.minimum, "Max": torch.maximum, "Sum": torch.add}
    return {
        **{name: partial(_on_two, do) for name, do in plain.items()},
        **{name: partial(_fold, do) for name, do in folded.items()},
        "Mean": lambda call: _fold(torch.add, call) / len(call.inputs),
        "Mod": lambda call: (torch.fmod if call.attribute("fmod", 0) else torch.remainder)(call[0], call[1]),
        "Where": lambda call: torch.where(call[0], call[1], call[2]),
        "Einsum": lambda call: torch.einsum(call.attribute("equation"), *call.inputs),
    }


def _divide(left: TorchTensor, right: TorchTensor) -> TorchTensor:
    import torch

    whole = not left.is_floating_point() and not right.is_floating_point()
    return torch.div(left, right, rounding_mode="trunc" if whole else None)


def _power(base: TorchTensor, exponent: TorchTensor) -> TorchTensor:
    import torch

    return torch.pow(base, exponent.to(base.dtype))


def _on_one(do: Do, call: Call) -> TorchTensor:
    return do(call[0])


def _on_two(do: Do, call: Call) -> TorchTensor:
    return do(call[0], call[1])


def _fold(do: Do, call: Call) -> TorchTensor:
    result = call[0]
    for value in call.inputs[1:]:
        result = do(result, value)
    return result


def _reductions() -> dict[str, Callable[[Call], Any]]:
    import torch

    kinds: dict[str, Do] = {
        "ReduceMean": torch.mean,
        "ReduceSum": torch.sum,
        "ReduceMax": torch.amax,
        "ReduceMin": torch.amin,
        "ReduceL1": lambda x, axes, keepdim: x.abs().sum(axes, keepdim=keepdim),
        "ReduceL2": lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim).sqrt(),
        "ReduceSumSquare": lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim),
        "ReduceLogSum": lambda x, axes, keepdim: x.sum(axes, keepdim=keepdim).log(),
        "ReduceLogSumExp": torch.logsumexp,
    }
    return {
        **{name: partial(_reduce, do) for name, do in kinds.items()},
        "ArgMax": lambda call: _arg(call, torch.argmax),
        "ArgMin": lambda call: _arg(call, torch.argmin),
        "CumSum": _cumulate,
    }


def _reduce(do: Do, call: Call) -> TorchTensor:
    axes = call.numbers(1, "axes")
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return call[0]
        axes = list(range(call[0].dim()))
    return do(call[0], axes, keepdim=bool(call.attribute("keepdims", 1)))


def _arg(call: Call, do: Callable[..., TorchTensor]) -> TorchTensor:
    if call.attribute("select_last_index", 0):
        raise call.unsupported("the last of equals")
    return do(call[0], dim=call.attribute("axis", 0), keepdim=bool(call.attribute("keepdims", 1)))


def _cumulate(call: Call) -> TorchTensor:
    if call.attribute("exclusive", 0) or call.attribute("reverse", 0):
        raise call.unsupported("exclusive or reverse")
    (axis,) = call.numbers(1) or [0]
    return call[0].cumsum(axis)


def _shapes() -> dict[str, Callable[[Call], Any]]:
    import torch

    return {
        "Reshape": _reshape,
        "Flatten": lambda call: _flatten(call[0], call.attribute("axis", 1)),
        "Transpose": lambda call: call[0].permute(call.attribute("perm", list(range(call[0].dim()))[::-1])),
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Concat": lambda call: torch.cat(list(call.inputs), call.attribute("axis")),
        "Split": _split,
        "Slice": _slice,
        "Gather": _gather,
        "GatherElements": lambda call: torch.gather(call[0], call.attribute("axis", 0), call[1].long()),
        "Expand": _expand,
        "Tile": lambda call: call[0].repeat(call.numbers(1)),
        "Pad": _pad,
        "Shape": lambda call: torch.tensor(
            list(call[0].shape)[call.attribute("start", 0) : call.attribute("end", None)], dtype=torch.int64
        ),
        "ConstantOfShape": _constant_of_shape,
        "Range": _range,
        "DepthToSpace": _depth_to_space,
        "SpaceToDepth": lambda call: torch.nn.functional.pixel_unshuffle(call[0], call.attribute("blocksize")),
    }


def _reshape(call: Call) -> TorchTensor:
    wanted = call.numbers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        wanted = [call[0].shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return call[0].reshape(wanted)


def _flatten(value: TorchTensor, axis: int) -> TorchTensor:
    at = axis % value.dim() if axis < 0 else axis
    return value.flatten(at) if at == 1 else value.reshape(_product(value.shape[:at]), _product(value.shape[at:]))


def _product(sizes: Any) -> int:  # noqa: ANN401 - a torch.Size
    result = 1
    for size in sizes:
        result *= size
    return result


def _squeeze(call: Call) -> TorchTensor:
    axes = call.numbers(1, "axes")
    return call[0].squeeze() if axes is None else call[0].squeeze(axes)


def _unsqueeze(call: Call) -> TorchTensor:
    axes = call.numbers(1, "axes") or []
    result = call[0]
    rank = result.dim() + len(axes)
    for axis in sorted(item % rank for item in axes):
        result = result.unsqueeze(axis)
    return result


def _split(call: Call) -> tuple[TorchTensor, ...]:
    axis, value = call.attribute("axis", 0), call[0]
    sizes = call.numbers(1, "split")
    if sizes is None:
        count = call.attribute("num_outputs") or call.attribute("outputs")
        each = -(-value.shape[axis] // count)
        sizes = [min(each, value.shape[axis] - at * each) for at in range(count)]
    parts: tuple[TorchTensor, ...] = value.split(sizes, axis)
    return parts


def _slice(call: Call) -> TorchTensor:
    value = call[0]
    starts, ends = call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            size = value.shape[axis]
            places = list(range(size))[slice(start, None if end < -size else end, step)]
            value = value.index_select(axis, _index(value, places))
        else:
            value = value[(slice(None),) * (axis % value.dim()) + (slice(start, min(end, _MAX_END), step),)]
    return value


def _index(value: TorchTensor, places: list[int]) -> TorchTensor:
    import torch

    return torch.tensor(places, dtype=torch.int64, device=value.device)


def _gather(call: Call) -> TorchTensor:
    axis, indices = call.attribute("axis", 0) % call[0].dim(), call[1].long()
    size = call[0].shape[axis]
    if not indices.dim():
        places = call.numbers(1) or [0]
        return call[0].select(axis, places[0])
    flat = indices.reshape(-1)
    flat = (flat < 0) * size + flat
    shape = (*call[0].shape[:axis], *indices.shape, *call[0].shape[axis + 1 :])
    return call[0].index_select(axis, flat).reshape(shape)


def _expand(call: Call) -> TorchTensor:
    value, wanted = call[0], call.numbers(1) or []
    missing = len(wanted) - value.dim()
    # ONNX broadcasts both ways; PyTorch only from the value to the shape.
    own = [1] * missing + list(value.shape) if missing > 0 else list(value.shape)
    asked = [1] * -missing + wanted if missing < 0 else wanted
    return value.expand([size if want == 1 else want for size, want in zip(own, asked, strict=True)])


def _pad(call: Call) -> TorchTensor:
    import torch

    value, pads = call[0], call.numbers(1, "pads") or []
    mode = call.attribute("mode", "constant")
    axes = call.numbers(3) or list(range(value.dim()))
    ends = [(0, 0)] * value.dim()
    for at, axis in enumerate(axes):
        ends[axis] = (pads[at], pads[at + len(axes)])
    if mode == "constant":
        (fill,) = call.numbers(2, "") or [call.attribute("value", 0.0)]
        return torch.nn.functional.pad(value, [side for pair in reversed(ends) for side in pair], value=fill)
    for axis, (before, after) in enumerate(ends):
        if before or after:
            value = value.index_select(axis, _index(value, _mirrored(call, mode, value.shape[axis], before, after)))
    return value


def _mirrored(call: Call, mode: str, size: int, before: int, after: int) -> list[int]:
    places = range(-before, size + after)
    if mode == "edge":
        return [min(max(at, 0), size - 1) for at in places]
    if mode == "reflect" and max(before, after) < size:
        return [size - 1 - abs(size - 1 - abs(at)) for at in places]
    raise call.unsupported(f"mode {mode}")


def _constant_of_shape(call: Call) -> TorchTensor:
    import torch

    value = call.attribute("value")
    fill = torch.zeros(1) if value is None else value
    return fill.reshape(-1)[:1].repeat(_product(call.numbers(0) or [])).reshape(call.numbers(0) or [])


def _range(call: Call) -> TorchTensor:
    import torch

    start, limit, delta = (number for at in range(3) for number in call.numbers(at) or [0])
    return torch.arange(start, limit, delta)


def _depth_to_space(call: Call) -> TorchTensor:
    value, block = call[0], call.attribute("blocksize")
    count, channels, height, width = value.shape
    deep = channels // block**2
    if call.attribute("mode", "DCR") == "DCR":
        parts = value.reshape(count, block, block, deep, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = value.reshape(count, deep, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(count, deep, height * block, width * block)
