"""Lets a pydantic body hold one of our msgspec structs: `pipeline: Annotated[PipelineSpec, AsStruct()]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

JsonObject = dict[str, object]


class AsStruct:
    """Validates with msgspec, names what is wrong, and refuses members that the struct does not know."""

    def __get_pydantic_core_schema__(self, source: object, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: object) -> object:
            return _converted(value, cast("type[object]", source))

        return core_schema.no_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins),
            metadata={"litefleet_struct": source},
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the struct's own schema, its references written out."""
        metadata = cast("dict[str, object]", schema["metadata"])
        whole = msgspec.json.schema(metadata["litefleet_struct"])
        return cast("JsonSchemaValue", _inlined(whole, cast("dict[str, JsonObject]", whole.get("$defs", {}))))


def _converted(value: object, kind: type[object]) -> object:
    if isinstance(value, kind):
        return value
    try:
        converted = msgspec.convert(value, type=kind)
    except msgspec.ValidationError as exc:
        raise PydanticCustomError("struct", "{problem}", {"problem": str(exc)}) from exc
    # msgspec ignores what it does not know, as wire messages need it; an operator's misspelt member is a mistake.
    unknown = _unknown(value, msgspec.to_builtins(converted), "$")
    if unknown is not None:
        raise PydanticCustomError("struct", "unknown member {member}", {"member": unknown})
    return converted


def _unknown(given: object, understood: object, path: str) -> str | None:
    """Return the path of the first member that was given and not understood."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key not in understood:
                return f"{path}.{key}"
            found = _unknown(value, understood[key], f"{path}.{key}")
            if found is not None:
                return found
    if isinstance(given, list) and isinstance(understood, list | tuple):
        for index, (left, right) in enumerate(zip(given, understood, strict=False)):
            found = _unknown(left, right, f"{path}[{index}]")
            if found is not None:
                return found
    return None


def _inlined(node: object, definitions: dict[str, JsonObject]) -> object:
    if isinstance(node, list | tuple):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[str(node["$ref"]).rsplit("/", 1)[-1]], definitions)
    # A discriminator's mapping points at definitions, which are gone; each member still names its own tag.
    return {key: _inlined(value, definitions) for key, value in node.items() if key not in {"$defs", "discriminator"}}
