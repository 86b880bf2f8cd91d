"""Column types that mean the same on SQLite and PostgreSQL.

A table says `Field(sa_type=UtcDateTime)`, `Field(sa_type=one_of(SomeStrEnum))`, `Field(sa_type=Json(PipelineSpec))`.
Importing this module also names the constraints of every table, so that migrations can find them again, and lets a row
hold a struct that pydantic does not know.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator
from sqlmodel import SQLModel
from typing_extensions import override

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.model_config["arbitrary_types_allowed"] = True


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time in, the same aware UTC time out; SQLite alone would give it back naive."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC. Raises ValueError on a naive time: nobody knows which hour it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"naive datetime {value.isoformat()} for a UTC column"
            raise ValueError(message)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[T], Generic[T]):
    """A value of any msgspec-able type as JSON text, decoded and checked against that type when read."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: type[T]) -> None:
        super().__init__()
        self.kind = kind

    @override
    def process_bind_param(self, value: T | None, dialect: Dialect) -> str | None:
        """Store JSON with sorted keys, so that equal values are equal text."""
        return None if value is None else msgspec.json.encode(value, order="sorted").decode()

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> T | None:
        """Return the value. Raises msgspec.ValidationError on text that is not of the type."""
        return None if value is None else msgspec.json.decode(value, type=self.kind)


def one_of(choices: type[E]) -> sa.Enum:
    """Return a text column type that holds only the values of `choices`, which a CHECK constraint enforces."""
    return sa.Enum(
        choices,
        # No name of its own, so that the convention above names the constraint by table and column.
        name=None,
        native_enum=False,
        create_constraint=True,
        validate_strings=True,
        # A longer value may come with a later version; widening a column is a migration, a CHECK is one anyway.
        length=32,
        values_callable=_values,
    )


def _values(choices: object) -> list[str]:
    return [choice.value for choice in cast("type[StrEnum]", choices)]
