"""From a JAX function over any batch to one over a fixed batch. The only file that touches what JAX keeps private.

JAX refines shapes by itself whenever it compiles, but offers no public way to what comes out; without it, a model for a
batch of 1 would go on asking how large its batch is. JAX is pinned to the digit in the lock, and a test asks whether
these functions are still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters.failures import SchemeFailedError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_PINNED = "0.10.2"


def fixed_module(exported: Any, batch: int) -> bytes:  # noqa: ANN401 - a jax.export.Exported; see converters.loaders.jax
    """Return the portable StableHLO of an export with a free batch, for `batch` items and with no free size left.

    Raises:
        SchemeFailedError: JAX cannot fix the shapes, or is of another version than this was written for.
    """
    import jax
    from jax import export

    flat = [_shape(batch, aval.shape, aval.dtype) for aval in exported.in_avals]
    arguments, keywords = jax.tree_util.tree_unflatten(exported.in_tree, flat)
    fixed = export.export(jax.jit(exported.call), platforms=["cpu"])(*arguments, **keywords)
    try:
        from jax._src.export._export import _module_to_bytecode
        from jax._src.interpreters import mlir
    except ImportError as exc:
        raise SchemeFailedError(
            f"jax {_PINNED} is not installed as it should be ({exc}): install the jax converters again"
        ) from exc
    context = mlir.make_ir_context()
    try:
        with context, mlir.ir.Location.unknown(context):
            module = mlir.ir.Module.parse(fixed.mlir_module())
            return bytes(_module_to_bytecode(mlir.refine_polymorphic_shapes(module)))
    except ValueError as exc:
        first_line = str(exc).strip().split("\n", 1)[0][:300]
        raise SchemeFailedError(f"its shapes cannot be fixed for a batch of {batch}: {first_line}") from exc


def _shape(batch: int, shape: tuple[Any, ...], dtype: DTypeLike) -> Any:  # noqa: ANN401 - a jax.ShapeDtypeStruct
    import jax

    return jax.ShapeDtypeStruct((batch, *shape[1:]), dtype)
