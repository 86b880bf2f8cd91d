"""What a TensorFlow.js layers model declares, turned into what Keras 3 understands.

TensorFlow.js writes the configurations of Keras 1 and 2. What has another meaning since then is translated, what says
nothing at inference is left out, and what is not known is refused: nothing here may run code of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Config = dict[str, Any]
"""A configuration as JSON holds it; `Any`, since each class has a form of its own."""

_FIELD = "source"
_MODELS = frozenset({"Functional", "Model", "Sequential"})
_WRAPPERS = frozenset({"Bidirectional", "TimeDistributed"})
_LAYERS = frozenset(
    {"Activation", "Add", "AlphaDropout", "Average", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"}
    | {"BatchNormalization", "CenterCrop", "Concatenate", "Conv1D", "Conv2D", "Conv2DTranspose", "Conv3D"}
    | {"Conv3DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dot", "Dropout", "ELU", "Embedding", "Flatten"}
    | {"GRU", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D"}
    | {"GlobalMaxPooling1D", "GlobalMaxPooling2D", "InputLayer", "LSTM", "LayerNormalization", "LeakyReLU", "Masking"}
    | {"MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "Maximum", "Minimum", "Multiply", "PReLU", "Permute", "ReLU"}
    | {"RepeatVector", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "SimpleRNN", "Softmax"}
    | {"SpatialDropout1D", "Subtract", "UpSampling2D", "ZeroPadding2D"}
)
_ONLY_TRAINING = ("_initializer", "_regularizer", "_constraint")
_SAYS_NOTHING = frozenset(
    {"cell", "implementation", "input_dtype", "input_spec", "seed", "trainable", "unit_forget_bias"}
)
"""Of layers that have them: how to compute, how to train, or what follows from the rest."""
_MUST_BE_FALSE = ("ragged", "sparse", "stateful", "time_major")
"""What would change the answers, and no file for a browser has."""
_MAX_DEPTH = 16
OLD_HARD_SIGMOID = "hard_sigmoid"
"""Keras 1 and 2, and TensorFlow.js, mean `0.2 x + 0.5`, cut to 0..1; Keras 3 means `x / 6 + 0.5`."""
_ACTIVATIONS = frozenset(
    {"elu", "exponential", "gelu", "hard_sigmoid", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "softmax"}
    | {"softplus", "softsign", "swish", "tanh"}
)


def translated(topology: object) -> Config:
    """Return the configuration of a Keras 3 model.

    Raises:
        InvalidInputError: names the layer, and what it is that cannot be taken over.
    """
    if not isinstance(topology, dict):
        raise _refused("declares no model")
    declared = topology.get("model_config", topology)
    if not isinstance(declared, dict):
        raise _refused("declares no model")
    return _model(declared, depth=0)


def _model(declared: Config, *, depth: int) -> Config:
    if depth > _MAX_DEPTH:
        raise _refused("nests models within models without end")
    kind, config = str(declared.get("class_name")), declared.get("config")
    if kind not in _MODELS:
        raise _refused(f"is of class {kind!r}, which is no Keras model")
    # Keras 1 gave a sequential model as the bare list of its layers.
    config = {"layers": config} if isinstance(config, list) else config
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        raise _refused("declares no layers")
    layers = [_layer(layer, depth=depth) for layer in config["layers"]]
    if kind == "Sequential":
        return {"class_name": "Sequential", "config": {"name": config.get("name", "model"), "layers": _begun(layers)}}
    ends = {side: config.get(side) for side in ("input_layers", "output_layers")}
    functional = {"name": config.get("name", "model"), "layers": layers, **ends}
    return {"class_name": "Functional", "config": functional, **_calls(declared)}


def _begun(layers: list[Config]) -> list[Config]:
    """Return the layers of a sequential model with an input of its own: the first one told its shape."""
    first = layers[0]["config"] if layers else {}
    shape = first.pop("batch_input_shape", None)
    if not layers or layers[0]["class_name"] == "InputLayer" or shape is None:
        return layers
    entry = {"batch_shape": shape, "dtype": first.get("dtype", "float32"), "name": f"{first.get('name')}_input"}
    return [{"class_name": "InputLayer", "config": entry}, *layers]


def _layer(declared: object, *, depth: int) -> Config:
    if not isinstance(declared, dict) or not isinstance(declared.get("config"), dict | list):
        raise _refused("holds a layer that declares nothing")
    kind = str(declared.get("class_name"))
    if kind in _MODELS:
        model = _model(declared, depth=depth + 1)
        return {**model, "name": model["config"]["name"]}
    config = declared["config"]
    name = config.get("name") if isinstance(config, dict) else None
    if kind not in _LAYERS | _WRAPPERS or not isinstance(config, dict):
        raise _refused(f"layer {name!r} is of class {kind!r}, which may be code of its own", "use Keras layers only")
    made = _settings(kind, name, config)
    if kind in _WRAPPERS:
        # Keras looks for a wrapped layer where this says, and for others among its layers anyway.
        made["layer"] = {"module": "keras.layers", **_layer(config.get("layer"), depth=depth + 1)}
    return {"class_name": kind, "config": made, "name": name, **_calls(declared)}


def _calls(declared: Config) -> Config:
    nodes = declared.get("inbound_nodes")
    return {} if nodes is None else {"inbound_nodes": nodes}


def _settings(kind: str, name: object, config: Mapping[str, Any]) -> Config:
    for flag in _MUST_BE_FALSE:
        if config.get(flag):
            raise _refused(f"layer {name!r} is {flag}", f"build it with {flag}=False")
    kept = {
        key: value
        for key, value in config.items()
        if key not in _SAYS_NOTHING and key not in _MUST_BE_FALSE and not key.endswith(_ONLY_TRAINING)
    }
    for key in ("activation", "recurrent_activation"):
        if kept.get(key) is not None and str(kept[key]) not in _ACTIVATIONS:
            raise _refused(f"layer {name!r} has the activation {str(kept[key])[:60]!r}, which is not built in")
    if kind == "InputLayer" and "batch_input_shape" in kept:
        kept["batch_shape"] = kept.pop("batch_input_shape")
    # Older files have no such setting, and Keras has since changed what it means to be silent.
    if kind == "GRU":
        kept.setdefault("reset_after", False)
    if kind in {"BatchNormalization", "LayerNormalization"} and isinstance(kept.get("axis"), list):
        kept["axis"] = kept["axis"][0] if len(kept["axis"]) == 1 else kept["axis"]
    return kept


def _refused(problem: str, remedy: str = "") -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)
