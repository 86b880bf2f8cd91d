"""ONNX's layers of networks, done in PyTorch: convolution, pooling, normalisation, resizing, LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from converters.loaders.onnx_call import Call, TorchTensor


def table() -> dict[str, Callable[[Call], Any]]:
    """Return the function that does each operator's work, by the operator's name."""
    return {
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MaxPool": _max_pool,
        "AveragePool": _average_pool,
        "GlobalAveragePool": lambda call: call[0].mean(_space(call[0]), keepdim=True),
        "GlobalMaxPool": lambda call: call[0].amax(_space(call[0]), keepdim=True),
        "BatchNormalization": _batch_norm,
        "InstanceNormalization": _instance_norm,
        "LayerNormalization": _layer_norm,
        "Gemm": _gemm,
        "Resize": _resize,
        "Upsample": _resize,
        "LSTM": _lstm,
    }


def _space(value: TorchTensor) -> list[int]:
    return list(range(2, value.dim()))


def _pads(call: Call, value: TorchTensor, kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Return what is put before and after each axis of an image."""
    count = len(kernel)
    mode = call.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = call.attribute("pads", [0] * 2 * count)
        return list(zip(pads[:count], pads[count:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * count
    strides, dilations = call.attribute("strides", [1] * count), call.attribute("dilations", [1] * count)
    pairs = []
    for size, window, stride, dilation in zip(value.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if mode == "SAME_UPPER" else (more, less))
    return pairs


def _padded(value: TorchTensor, pads: Sequence[tuple[int, int]], fill: float) -> TorchTensor:
    import torch

    if not any(side for pair in pads for side in pair):
        return value
    return torch.nn.functional.pad(value, [side for pair in reversed(pads) for side in pair], value=fill)


def _equal(pads: Sequence[tuple[int, int]]) -> bool:
    return all(before == after for before, after in pads)


def _conv(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    weight = call[1]
    count = weight.dim() - 2
    pads = _pads(call, call[0], weight.shape[2:])
    inside = _equal(pads)
    value = call[0] if inside else _padded(call[0], pads, 0.0)
    do = {1: nn.conv1d, 2: nn.conv2d, 3: nn.conv3d}.get(count)
    if do is None:
        raise call.unsupported(f"{count} axes")
    return do(
        value,
        weight,
        call.optional(2),
        stride=call.attribute("strides", [1] * count),
        padding=[before for before, _ in pads] if inside else [0] * count,
        dilation=call.attribute("dilations", [1] * count),
        groups=call.attribute("group", 1),
    )


def _conv_transpose(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    count = call[1].dim() - 2
    pads = call.attribute("pads", [0] * 2 * count)
    plain = call.attribute("auto_pad", "NOTSET") == "NOTSET" and call.attribute("output_shape") is None
    do = {1: nn.conv_transpose1d, 2: nn.conv_transpose2d}.get(count)
    if not plain or pads[:count] != pads[count:] or do is None:
        raise call.unsupported("automatic or uneven padding")
    return do(
        call[0],
        call[1],
        call.optional(2),
        stride=call.attribute("strides", [1] * count),
        padding=pads[:count],
        output_padding=call.attribute("output_padding", [0] * count),
        groups=call.attribute("group", 1),
        dilation=call.attribute("dilations", [1] * count),
    )


def _ceil_pads(call: Call, value: TorchTensor, pads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pads that let the last window of each axis, which may stand over the edge, find something."""
    kernel = call.attribute("kernel_shape")
    strides, dilations = call.attribute("strides", [1] * len(kernel)), call.attribute("dilations", [1] * len(kernel))
    result = []
    for size, (before, after), window, stride, dilation in zip(
        value.shape[2:], pads, kernel, strides, dilations, strict=True
    ):
        reach = (window - 1) * dilation + 1
        rest = (size + before + after - reach) % stride
        starts_inside = rest and size + before + after - reach - rest + stride < size + before
        result.append((before, after + stride - rest if starts_inside else after))
    return result


def _max_pool(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    kernel = call.attribute("kernel_shape")
    pads = _pads(call, call[0], kernel)
    if call.attribute("ceil_mode", 0):
        pads = _ceil_pads(call, call[0], pads)
    do = {1: nn.max_pool1d, 2: nn.max_pool2d, 3: nn.max_pool3d}[len(kernel)]
    # What is padded must not win; a number, as infinity would be NaN in quantized models.
    return do(
        _padded(call[0], pads, -3e38),
        kernel,
        stride=call.attribute("strides", [1] * len(kernel)),
        dilation=call.attribute("dilations", [1] * len(kernel)),
    )


def _average_pool(call: Call) -> TorchTensor:
    import torch
    from torch.nn import functional as nn

    kernel = call.attribute("kernel_shape")
    if call.attribute("ceil_mode", 0) or any(item != 1 for item in call.attribute("dilations", [])):
        raise call.unsupported("ceil_mode or dilations")
    pads, strides = _pads(call, call[0], kernel), call.attribute("strides", [1] * len(kernel))
    do = {1: nn.avg_pool1d, 2: nn.avg_pool2d, 3: nn.avg_pool3d}[len(kernel)]
    pooled = do(_padded(call[0], pads, 0.0), kernel, stride=strides)
    if call.attribute("count_include_pad", 0) or not any(side for pair in pads for side in pair):
        return pooled
    # The mean is of what is there: the padding's share is taken out again, the same for every input.
    present = _padded(torch.ones((1, 1, *call[0].shape[2:])), pads, 0.0)
    return pooled * do(present, kernel, stride=strides).reciprocal()


def _batch_norm(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    return nn.batch_norm(call[0], call[3], call[4], call[1], call[2], eps=call.attribute("epsilon", 1e-5))


def _instance_norm(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    return nn.instance_norm(call[0], weight=call[1], bias=call[2], eps=call.attribute("epsilon", 1e-5))


def _layer_norm(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    axis = call.attribute("axis", -1) % call[0].dim()
    return nn.layer_norm(call[0], call[0].shape[axis:], call[1], call.optional(2), call.attribute("epsilon", 1e-5))


def _gemm(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    left = call[0].T if call.attribute("transA", 0) else call[0]
    # As a linear layer, with (out, in) weights, it becomes one operator.
    weight = call[1] if call.attribute("transB", 0) else call[1].T
    alpha, beta, bias = call.attribute("alpha", 1.0), call.attribute("beta", 1.0), call.optional(2)
    if alpha == 1.0 and bias is not None and beta == 1.0 and bias.dim() == 1 and bias.shape[0] == weight.shape[0]:
        return nn.linear(left, weight, bias)
    product = nn.linear(left, weight) * alpha
    return product if bias is None else product + bias * beta


def _resize(call: Call) -> TorchTensor:
    from torch.nn import functional as nn

    scales_at = 1 if call.operator == "Upsample" or call.opset < 11 else 2  # noqa: PLR2004 - a region came in between
    mode = call.attribute("mode", "nearest")
    style = call.attribute("coordinate_transformation_mode", "half_pixel" if scales_at == 2 else "asymmetric")  # noqa: PLR2004
    sizes, scales = call.numbers(3) if scales_at == 2 else None, call.numbers(scales_at, "scales")  # noqa: PLR2004
    if not sizes:
        sizes = [int(size * scale) for size, scale in zip(call[0].shape, scales or [], strict=True)]
    if len(sizes) != 4 or sizes[:2] != list(call[0].shape[:2]) or call.attribute("axes") is not None:  # noqa: PLR2004
        raise call.unsupported("axes other than those of an image")
    whole = all(made % size == 0 for made, size in zip(sizes[2:], call[0].shape[2:], strict=True))
    # Enlarged a whole number of times, every style of "nearest" repeats each point.
    rounding = call.attribute("nearest_mode", "round_prefer_floor")
    if (mode == "nearest" and (rounding, style) == ("floor", "asymmetric")) or (
        mode == "nearest" and whole and style == "half_pixel"
    ):
        return nn.interpolate(call[0], size=sizes[2:], mode="nearest")
    if mode == "linear" and style in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        return nn.interpolate(call[0], size=sizes[2:], mode="bilinear", align_corners=style == "align_corners")
    raise call.unsupported(f"mode {mode}, {style}")


def _lstm(call: Call) -> tuple[TorchTensor, ...]:
    import torch

    plain = call.attribute("activations") is None and not call.attribute("layout", 0) and not call.attribute("clip")
    if not plain or call.optional(4) is not None or call.optional(7) is not None:
        raise call.unsupported("activations, peepholes, clipping or lengths of its own")
    value, size = call[0], call.attribute("hidden_size")
    direction = call.attribute("direction", "forward")
    start = torch.zeros((call[1].shape[0], value.shape[1], size))
    hidden, cell = call.optional(5), call.optional(6)
    answers, hiddens, cells = [], [], []
    for at in range(call[1].shape[0]):
        backwards = direction == "reverse" or at == 1
        state = (start if hidden is None else hidden)[at], (start if cell is None else cell)[at]
        outputs, (last, kept) = _lstm_way(call, at, state, backwards=backwards)
        answers.append(torch.stack(outputs[::-1] if backwards else outputs))
        hiddens.append(last)
        cells.append(kept)
    return torch.stack(answers, 1), torch.stack(hiddens), torch.stack(cells)


def _lstm_way(
    call: Call, at: int, state: tuple[TorchTensor, TorchTensor], *, backwards: bool
) -> tuple[list[TorchTensor], tuple[TorchTensor, TorchTensor]]:
    """Walk the sequence one way, step by step: a `.tflite` has no other LSTM that every runtime knows."""
    import torch
    from torch.nn import functional as nn

    hidden, cell = state
    bias = call.optional(3)
    of_input, of_state = (None, None) if bias is None else bias[at].chunk(2)
    steps = call[0].unbind(0)
    outputs = []
    for step in reversed(steps) if backwards else steps:
        gates = nn.linear(step, call[1][at], of_input) + nn.linear(hidden, call[2][at], of_state)
        # ONNX's order: input, output, forget, cell.
        enter, leave, keep, new = gates.chunk(4, -1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        outputs.append(hidden)
    return outputs, (hidden, cell)
