"""Column types: the same value out as in, on both databases, and nothing that was never meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from controller.db.types import Json, UtcDateTime, one_of
from shared.pipeline import MODEL_ONLY, PipelineSpec

_SQLITE, _POSTGRES = sqlite.dialect(), postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy leaves it so
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class _Colour(StrEnum):
    RED = "red"
    DEEP_RED = "deep_red"


@pytest.mark.parametrize("dialect", [_SQLITE, _POSTGRES], ids=["sqlite", "postgresql"])
@given(at=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_time_comes_back_as_the_same_moment_in_utc(dialect: sa.Dialect, at: datetime) -> None:
    if not datetime.min.replace(tzinfo=UTC) + timedelta(days=1) < at < datetime.max.replace(tzinfo=UTC):
        return
    column = UtcDateTime()
    back = column.process_result_value(column.process_bind_param(at, dialect), dialect)
    assert back == at
    assert back is not None
    assert back.tzinfo is UTC


def test_time_is_stored_naive_where_the_database_knows_no_zone() -> None:
    stored = UtcDateTime().process_bind_param(_NOON, _SQLITE)
    assert stored is not None
    assert stored.tzinfo is None


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="naive datetime"):
        UtcDateTime().process_bind_param(_NOON.replace(tzinfo=None), _POSTGRES)


@pytest.mark.parametrize("column", [UtcDateTime(), Json(PipelineSpec)])
def test_nothing_stays_nothing(column: UtcDateTime | Json[PipelineSpec]) -> None:
    assert column.process_bind_param(None, _SQLITE) is None
    assert column.process_result_value(None, _SQLITE) is None


def test_struct_comes_back_as_itself() -> None:
    column = Json(PipelineSpec)
    assert column.process_result_value(column.process_bind_param(MODEL_ONLY, _SQLITE), _SQLITE) == MODEL_ONLY


def test_equal_values_are_equal_text() -> None:
    column = Json(dict[str, int])
    texts = {column.process_bind_param(value, _SQLITE) for value in ({"a": 1, "b": 2}, {"b": 2, "a": 1})}
    assert texts == {'{"a":1,"b":2}'}


def test_attack_text_of_another_shape_is_not_read() -> None:
    with pytest.raises(msgspec.ValidationError):
        Json(dict[str, int]).process_result_value('{"a":"one"}', _SQLITE)


def test_enum_column_holds_values_and_not_names() -> None:
    column = one_of(_Colour)
    assert column.enums == ["red", "deep_red"]


def test_enum_column_is_checked_by_the_database() -> None:
    table = sa.Table("paint", sa.MetaData(), sa.Column("colour", one_of(_Colour)))
    statement = str(sa.schema.CreateTable(table).compile(dialect=_SQLITE))
    assert "CHECK (colour IN ('red', 'deep_red'))" in statement
