"""Writes the names that are missing of private interfaces that converters.frontends.stablehlo and .refinement use."""

from __future__ import annotations

import json
import sys

from jax._src.export import _export
from jax._src.interpreters import mlir
from litert_converter.mlir import ir, passmanager
from litert_converter.mlir._mlir_libs import converter_api_ext as api
from litert_converter.mlir.dialects import stablehlo

USED = [
    *((api, name) for name in ("export_flatbuffer_to_bytes", "prepare_mlir_context", "run_convert_to_tfl_passes")),
    *((api, name) for name in ("ConvertToTFLConfig", "set_signature")),
    *((ir, name) for name in ("Context", "DenseElementsAttr", "FloatType", "MLIRError", "ShapedType", "StringAttr")),
    *((api.ConvertToTFLConfig(), name) for name in ("canonicalizing_inf_as_min_max_float", "model_origin_framework")),
    (api.ConvertToTFLConfig(), "unsafe_fuse_dynamic_shaped_broadcast"),
    (passmanager, "PassManager"),
    (stablehlo, "deserialize_portable_artifact"),
    (_export, "_module_to_bytecode"),
    (mlir, "make_ir_context"),
    (mlir, "refine_polymorphic_shapes"),
]

sys.stdout.write(json.dumps([name for owner, name in USED if not hasattr(owner, name)]))
