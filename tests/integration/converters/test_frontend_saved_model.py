from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.loaders import saved_model as loader
from shared.conversion import SourceFormat
from shared.errors import InvalidInputError
from tests.support.frontends import convert, pack
from tests.support.packages import package_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

# Notes from audio: saved by Keras 2 with its optimizer's state; three outputs. Apache-2.0.
BASIC_PITCH = ("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0")
BASIC_PITCH_FOLDER = "basic_pitch/saved_models/icassp_2022/nmp/"
SAMPLES, RATE_HZ = 43_844, 22_050


def exported(folder: Path, serve: Callable[..., Any], *specs: Any) -> Path:  # noqa: ANN401 - TensorFlow ships no types
    """Save a function as a SavedModel, packed."""
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=specs)
    tf.saved_model.save(module, str(folder / "saved"), signatures=module.serve.get_concrete_function())
    return pack(folder / "saved", folder / "saved.tar.gz")


def vector(size: int = 4) -> Any:  # noqa: ANN401 - a TensorSpec
    import tensorflow as tf

    return tf.TensorSpec((None, size), tf.float32, name="x")


@pytest.fixture(scope="module")
def network() -> Any:  # noqa: ANN401 - a Keras model
    import keras

    keras.utils.set_random_seed(7)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def test_published_model_of_keras_2_answers_as_tensorflow_does(tmp_path: Path) -> None:
    seconds = np.arange(SAMPLES) / RATE_HZ
    generator = np.random.default_rng(8)
    chord = sum(np.sin(2 * np.pi * pitch * seconds) for pitch in (220.0, 277.2, 329.6)) * np.exp(-seconds) / 5
    audio = (chord + generator.normal(0, 0.01, SAMPLES)).astype(np.float32)[np.newaxis, :, np.newaxis]
    archive = pack(package_file(*BASIC_PITCH, member=BASIC_PITCH_FOLDER), tmp_path / "pitch.zip")
    made = convert(archive, SourceFormat.SAVED_MODEL, tmp_path / "scratch", [audio])
    # It takes logarithms of a spectrum: one rounding of its input already moves TensorFlow's own answers by 1e-5.
    assert made.max_abs_diff <= 1e-4
    assert {answer.shape for answer in made.answers} == {(1, 172, 88), (1, 172, 264)}
    assert made.model.parameters == 16_864
    assert made.model.operators_before["Conv2D"] == made.model.operators_after["CONV_2D"] == 32


def test_exported_network_is_byte_identical_in_two_processes(network: Any, tmp_path: Path) -> None:  # noqa: ANN401 - Keras
    from sklearn.datasets import load_digits

    images = (load_digits().images[:20, ..., np.newaxis] / 16).astype(np.float32)
    network.export(tmp_path / "saved", verbose=False)
    archive = pack(tmp_path / "saved", tmp_path / "saved.tar.gz")
    first = convert(archive, SourceFormat.SAVED_MODEL, tmp_path / "1", [images])
    second = convert(archive, SourceFormat.SAVED_MODEL, tmp_path / "2")
    assert first.max_abs_diff <= 1e-5
    assert first.sha256 == second.sha256
    assert first.model.inputs[0].shape == (1, 8, 8, 1)


def test_any_batch_of_a_saved_model_is_answered_at_once(network: Any, tmp_path: Path) -> None:  # noqa: ANN401 - Keras
    from shared.runtime.interpreter import LiteRtInterpreter

    network.export(tmp_path / "saved", verbose=False)
    source = loader.open_source(pack(tmp_path / "saved", tmp_path / "saved.zip"), tmp_path / "source")
    interpreter = LiteRtInterpreter(source.to_tflite(None), threads=1)
    assert interpreter.inputs[0].shape == (-1, 8, 8, 1)
    images = np.random.default_rng(9).uniform(0, 1, (5, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(interpreter.run([images])[0], source.answer([images])[0], atol=1e-5)


def test_live_augmentation_is_refused_with_its_operators_and_the_remedy(tmp_path: Path) -> None:
    import keras

    layers = [keras.layers.RandomTranslation(0.1, 0.1), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.export(tmp_path / "saved", verbose=False)
    with pytest.raises(InvalidInputError) as caught:
        loader.open_source(pack(tmp_path / "saved", tmp_path / "saved.zip"), tmp_path / "source")
    assert "SavedModel with live augmentation" in caught.value.problem
    for operator in ("AssignVariableOp", "ImageProjectiveTransformV3", "StatelessRandomUniformV2"):
        assert operator in caught.value.problem
    assert "upload the .keras file" in caught.value.remedy


def reads_a_file(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    return {"y": x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)}


def writes_a_file(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    with tf.control_dependencies([tf.io.write_file("/tmp/never-written", "x")]):
        return {"y": tf.identity(x)}


def prints_to_a_file(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    tf.print(x, output_stream="file:///tmp/never-written")
    return {"y": x * 2}


def calls_python(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    return {"y": tf.ensure_shape(tf.py_function(lambda value: value, [x], tf.float32), x.shape)}


def calls_numpy(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    return {"y": tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32, stateful=False), x.shape)}


def lists_a_folder(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    return {"y": x + tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32)}


def reads_a_checkpoint(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    return {
        "y": x + tf.raw_ops.RestoreV2(prefix="/a", tensor_names=["b"], shape_and_slices=[""], dtypes=[tf.float32])[0]
    }


def debugs_into_a_file(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    # TensorFlow says of this one that it has no effects.
    dumped = tf.raw_ops.DebugIdentity(input=x, tensor_name="x:0", debug_urls=["file:///tmp/never-written"])
    return {"y": tf.ensure_shape(dumped, x.shape)}


def keeps_a_dataset(x: Any) -> Any:  # noqa: ANN401 - tensors
    import tensorflow as tf

    kept = tf.data.Dataset.range(3).cache("/tmp/never-written")
    return {"y": x + tf.cast(tf.raw_ops.DatasetCardinality(input_dataset=kept._variant_tensor), tf.float32)}


@pytest.mark.parametrize(
    ("serve", "operator"),
    [
        (reads_a_file, "ReadFile"),
        (debugs_into_a_file, "DebugIdentity"),
        (keeps_a_dataset, ".*CacheDataset"),
        (writes_a_file, "WriteFile"),
        (prints_to_a_file, "PrintV2"),
        (calls_python, "EagerPyFunc"),
        (calls_numpy, "PyFuncStateless"),
        (lists_a_folder, "MatchingFiles"),
        (reads_a_checkpoint, "RestoreV2"),
    ],
)
def test_graph_that_reaches_outside_of_the_model_is_refused_before_anything_runs(
    serve: Callable[[Any], Any], operator: str, tmp_path: Path
) -> None:
    archive = exported(tmp_path, serve, vector())
    with pytest.raises(InvalidInputError, match=f"computes with {operator}"):
        loader.open_source(archive, tmp_path / "source")
    assert not Path("/tmp/never-written").exists()


def test_initializer_that_writes_a_file_is_refused_before_it_runs(tmp_path: Path) -> None:
    import tensorflow as tf

    written = tmp_path / "written"

    class Table(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]  # TensorFlow ships no types
        def _create_resource(self) -> Any:  # noqa: ANN401 - a tensor
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int64, shared_name="table")

        def _initialize(self) -> None:
            if tf.inside_function():
                dumped = tf.raw_ops.DebugIdentity(
                    input=tf.ones(4), tensor_name="x:0", debug_urls=[written.as_uri()], gated_grpc=False
                )
                tf.debugging.Assert(tf.reduce_all(dumped > 0), [dumped])

    module = tf.Module()
    module.table = Table()
    module.table.resource_handle  # noqa: B018 - makes the resource
    serve = tf.function(lambda x: {"y": x * 2}, input_signature=[vector()])
    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=serve.get_concrete_function())
    with pytest.raises(InvalidInputError, match="computes with DebugIdentity"):
        loader.open_source(pack(tmp_path / "saved", tmp_path / "saved.zip"), tmp_path / "source")
    assert not written.exists()


def test_function_that_has_an_operators_name_is_refused(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    exported(tmp_path, lambda x: {"y": x * 2}, vector())
    graph = tmp_path / "saved" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    disguise = model.meta_graphs[0].graph_def.library.function.add()
    disguise.signature.name = "WriteFile"
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInputError, match="a function that is called WriteFile"):
        loader.open_source(pack(tmp_path / "saved", tmp_path / "again.zip"), tmp_path / "source")


def test_vocabulary_read_from_an_asset_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "words.txt").write_text("one\ntwo\n")
    initializer = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    serve = tf.function(
        lambda x: {"y": x + tf.cast(module.table.lookup(tf.constant(["one"])), tf.float32)}, input_signature=[vector()]
    )
    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=serve.get_concrete_function())
    with pytest.raises(InvalidInputError, match="InitializeTableFromTextFileV2"):
        loader.open_source(pack(tmp_path / "saved", tmp_path / "saved.zip"), tmp_path / "source")


def test_fixed_batch_of_another_size_is_refused_by_field(tmp_path: Path) -> None:
    import tensorflow as tf

    archive = exported(tmp_path, lambda x: {"y": x * 2}, tf.TensorSpec((3, 4), tf.float32, name="x"))
    source = loader.open_source(archive, tmp_path / "source")
    with pytest.raises(InvalidInputError, match="batch: the SavedModel is made for a batch of 3"):
        source.to_tflite(1)
    assert len(source.to_tflite(3)) > 0
    assert source.answer([np.ones((6, 4), np.float32)])[0].shape == (6, 4)


def test_open_sizes_are_refused_by_name(tmp_path: Path) -> None:
    import tensorflow as tf

    archive = exported(tmp_path, lambda x: {"y": x * 2}, tf.TensorSpec((None, None), tf.float32, name="x"))
    with pytest.raises(InvalidInputError, match="leaves the shape of input x open"):
        loader.open_source(archive, tmp_path / "source")


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "no variables"])
def test_damaged_saved_model_is_refused_and_never_crashes(damage: str, network: Any, tmp_path: Path) -> None:  # noqa: ANN401 - Keras
    network.export(tmp_path / "saved", verbose=False)
    graph = tmp_path / "saved" / "saved_model.pb"
    match damage:
        case "empty":
            graph.write_bytes(b"")
        case "cut":
            graph.write_bytes(graph.read_bytes()[:5000])
        case "garbage":
            graph.write_bytes(b"\xff" * 5000)
        case _:
            shutil.rmtree(tmp_path / "saved" / "variables")
    with pytest.raises(InvalidInputError, match=r"^source: "):
        loader.open_source(pack(tmp_path / "saved", tmp_path / "saved.zip"), tmp_path / "source")
