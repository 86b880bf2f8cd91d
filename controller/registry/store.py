"""Rows to values and back: nothing else in the registry sees a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlmodel import SQLModel, col

from controller.registry.core.options import digest_of
from controller.registry.core.types import (
    NO_OPTIONS,
    Conversion,
    ConversionOrder,
    ConversionState,
    Dataset,
    Model,
    ModelVersion,
    Release,
)
from controller.registry.tables import ConversionRow, DatasetRow, ModelRow, ReleaseRow, VersionRow
from shared.errors import NotFoundError
from shared.ids import ConversionId, ModelName, ReleaseId, Sha256
from shared.manifest import manifest_path
from shared.wire import TargetRef

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from controller.registry.core.types import ReleaseOptions

R = TypeVar("R", bound=SQLModel)


async def model(session: AsyncSession, name: ModelName) -> Model:
    """Return a model. Raises NotFoundError."""
    row = _found(await session.get(ModelRow, name), kind="model", name=name)
    counted = sa.select(sa.func.count()).select_from(VersionRow).where(col(VersionRow.model) == name)
    return Model(model=name, versions=(await session.execute(counted)).scalar_one(), created_at=row.created_at)


async def models(session: AsyncSession, *, after: str, limit: int) -> list[Model]:
    """Return models in the order of their names."""
    counts = (
        sa.select(col(VersionRow.model).label("model"), sa.func.count().label("versions"))
        .group_by(col(VersionRow.model))
        .subquery()
    )
    query = (
        sa.select(ModelRow, counts.c.versions)
        .outerjoin(counts, counts.c.model == ModelRow.model)
        .where(col(ModelRow.model) > after)
        .order_by(col(ModelRow.model))
        .limit(limit)
    )
    return [
        Model(model=ModelName(row.model), versions=versions or 0, created_at=row.created_at)
        for row, versions in (await session.execute(query)).all()
    ]


async def ensure_model(session: AsyncSession, name: ModelName, at: datetime) -> None:
    """Make a model known."""
    if await session.get(ModelRow, name) is None:
        session.add(ModelRow(model=name, created_at=at))


async def version(session: AsyncSession, name: ModelName, number: int) -> ModelVersion:
    """Return one version. Raises NotFoundError."""
    row = await session.get(VersionRow, (name, number))
    return _version(_found(row, kind="model version", name=f"{name}/{number}"))


async def version_of_bytes(session: AsyncSession, name: ModelName, sha256: Sha256) -> ModelVersion | None:
    """Return the version that these bytes already are."""
    query = sa.select(VersionRow).where(col(VersionRow.model) == name, col(VersionRow.sha256) == sha256)
    row = (await session.execute(query)).scalar_one_or_none()
    return None if row is None else _version(row)


async def versions(session: AsyncSession, name: ModelName, *, after: int, limit: int) -> list[ModelVersion]:
    """Return versions of a model, oldest first."""
    query = (
        sa.select(VersionRow)
        .where(col(VersionRow.model) == name, col(VersionRow.number) > after)
        .order_by(col(VersionRow.number))
        .limit(limit)
    )
    return [_version(row) for row in (await session.execute(query)).scalars()]


async def next_version_number(session: AsyncSession, name: ModelName) -> int:
    """Return the number of the version that comes next."""
    query = sa.select(sa.func.max(col(VersionRow.number))).where(col(VersionRow.model) == name)
    return ((await session.execute(query)).scalar() or 0) + 1


def add_version(session: AsyncSession, added: ModelVersion) -> None:
    """Write a new version."""
    session.add(
        VersionRow(
            model=added.model,
            number=added.number,
            sha256=added.sha256,
            size_bytes=added.size_bytes,
            filename=added.filename,
            source_format=added.source_format,
            created_at=added.created_at,
        )
    )


async def find_dataset(session: AsyncSession, sha256: Sha256) -> Dataset | None:
    """Return a dataset, if it is known."""
    row = await session.get(DatasetRow, sha256)
    return None if row is None else _dataset(row)


async def datasets(session: AsyncSession, *, after: str, limit: int) -> list[Dataset]:
    """Return datasets in the order of their digests."""
    query = sa.select(DatasetRow).where(col(DatasetRow.sha256) > after).order_by(col(DatasetRow.sha256)).limit(limit)
    return [_dataset(row) for row in (await session.execute(query)).scalars()]


def add_dataset(session: AsyncSession, added: Dataset) -> None:
    """Write a new dataset."""
    session.add(
        DatasetRow(
            sha256=added.sha256,
            name=added.name,
            licence=added.licence,
            kind=added.kind,
            shards=added.shards,
            size_bytes=added.size_bytes,
            created_at=added.created_at,
        )
    )


async def conversion(session: AsyncSession, conversion_id: str) -> Conversion:
    """Return a conversion. Raises NotFoundError."""
    return _conversion(_found(await session.get(ConversionRow, conversion_id), kind="conversion", name=conversion_id))


async def conversions(session: AsyncSession, *, after: str | None, limit: int) -> list[Conversion]:
    """Return conversions, newest first."""
    query = sa.select(ConversionRow).order_by(col(ConversionRow.conversion_id).desc()).limit(limit)
    if after is not None:
        query = query.where(col(ConversionRow.conversion_id) < after)
    return [_conversion(row) for row in (await session.execute(query)).scalars()]


async def conversions_of(session: AsyncSession, order: ConversionOrder) -> list[Conversion]:
    """Return the conversions of the very same order, newest first."""
    query = (
        sa.select(ConversionRow)
        .where(
            col(ConversionRow.model) == order.model,
            col(ConversionRow.version_number) == order.version_number,
            col(ConversionRow.dataset_sha256) == order.dataset_sha256,
        )
        .order_by(col(ConversionRow.conversion_id).desc())
    )
    found = [_conversion(row) for row in (await session.execute(query)).scalars()]
    # Pipelines and profiles are documents: compared as values, since a database compares only their text.
    return [one for one in found if one.order == order]


async def conversions_in(session: AsyncSession, state: ConversionState, *, limit: int) -> list[Conversion]:
    """Return conversions in a state, oldest first."""
    query = (
        sa.select(ConversionRow)
        .where(col(ConversionRow.state) == state)
        .order_by(col(ConversionRow.conversion_id))
        .limit(limit)
    )
    return [_conversion(row) for row in (await session.execute(query)).scalars()]


async def save_conversion(session: AsyncSession, saved: Conversion) -> None:
    """Write a conversion, new or changed; its order never changes."""
    row = await session.get(ConversionRow, saved.conversion_id)
    if row is None:
        row = _ordered(saved)
        session.add(row)
    row.state = saved.state
    row.step = saved.step
    row.fraction = saved.fraction
    row.failure = saved.failure
    row.message = saved.message
    row.artifacts = saved.artifacts
    row.candidates = saved.candidates
    row.card = saved.card
    row.result_sha256 = saved.result_sha256
    row.attempts = saved.attempts


async def release(session: AsyncSession, release_id: str) -> Release:
    """Return a release that is not deleted, published or not. Raises NotFoundError."""
    row = _found(await session.get(ReleaseRow, release_id), kind="release", name=release_id)
    if row.deleted_at is not None:
        raise NotFoundError(kind="release", name=release_id)
    return _release(row)


async def release_of_conversion(
    session: AsyncSession, conversion_id: str, options: ReleaseOptions = NO_OPTIONS
) -> Release | None:
    """Return the release that a conversion made with these options, published or not."""
    query = sa.select(ReleaseRow).where(
        col(ReleaseRow.conversion_id) == conversion_id,
        col(ReleaseRow.options_sha256) == digest_of(options),
        col(ReleaseRow.deleted_at).is_(None),
    )
    row = (await session.execute(query)).scalar_one_or_none()
    return None if row is None else _release(row)


async def releases(session: AsyncSession, *, after: str | None, limit: int) -> list[Release]:
    """Return published releases, newest first."""
    query = (
        sa.select(ReleaseRow)
        .where(col(ReleaseRow.deleted_at).is_(None), col(ReleaseRow.manifest_sha256).is_not(None))
        .order_by(col(ReleaseRow.release_id).desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(ReleaseRow.release_id) < after)
    return [_release(row) for row in (await session.execute(query)).scalars()]


async def unpublished_releases(session: AsyncSession) -> list[Release]:
    """Return releases whose making was cut short, oldest first."""
    query = (
        sa.select(ReleaseRow)
        .where(col(ReleaseRow.deleted_at).is_(None), col(ReleaseRow.manifest_sha256).is_(None))
        .order_by(col(ReleaseRow.release_id))
    )
    return [_release(row) for row in (await session.execute(query)).scalars()]


async def next_release_counter(session: AsyncSession) -> int:
    """Return the counter of the release that comes next; deleted ones keep theirs, so that none comes twice."""
    return ((await session.execute(sa.select(sa.func.max(col(ReleaseRow.release_counter))))).scalar() or 0) + 1


def add_release(session: AsyncSession, added: Release) -> None:
    """Write a release that is still to be published."""
    session.add(
        ReleaseRow(
            release_id=added.release_id,
            conversion_id=added.conversion_id,
            model=added.model,
            version_number=added.version_number,
            release_counter=added.release_counter,
            artifacts=added.artifacts,
            profile_order=added.profile_order,
            options=added.options,
            options_sha256=digest_of(added.options),
            components=added.components,
            created_at=added.created_at,
        )
    )


async def mark_published(session: AsyncSession, release_id: ReleaseId, manifest: TargetRef) -> None:
    """Note that the repository vouches for a release."""
    row = _found(await session.get(ReleaseRow, release_id), kind="release", name=release_id)
    row.manifest_sha256 = manifest.sha256
    row.manifest_bytes = manifest.length_bytes


async def mark_deleted(session: AsyncSession, release_id: ReleaseId, at: datetime) -> None:
    """Take a release out of sight; its id and counter stay taken."""
    row = _found(await session.get(ReleaseRow, release_id), kind="release", name=release_id)
    row.deleted_at = at


def _found(row: R | None, *, kind: str, name: str) -> R:
    if row is None:
        raise NotFoundError(kind=kind, name=name)
    return row


def _version(row: VersionRow) -> ModelVersion:
    return ModelVersion(
        model=ModelName(row.model),
        number=row.number,
        sha256=Sha256(row.sha256),
        size_bytes=row.size_bytes,
        filename=row.filename,
        source_format=row.source_format,
        created_at=row.created_at,
    )


def _dataset(row: DatasetRow) -> Dataset:
    return Dataset(
        sha256=Sha256(row.sha256),
        name=row.name,
        licence=row.licence,
        kind=row.kind,
        shards=row.shards,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
    )


def _ordered(saved: Conversion) -> ConversionRow:
    return ConversionRow(
        conversion_id=saved.conversion_id,
        model=saved.order.model,
        version_number=saved.order.version_number,
        dataset_sha256=saved.order.dataset_sha256,
        pipeline=saved.order.pipeline,
        schemes=saved.order.schemes,
        profiles=saved.order.profiles,
        budget=saved.order.budget,
        objective=saved.order.objective,
        image_input=saved.order.image_input,
        batch=saved.order.batch,
        runtimes=saved.order.runtimes,
        state=saved.state,
        created_at=saved.created_at,
    )


def _conversion(row: ConversionRow) -> Conversion:
    order = ConversionOrder(
        model=ModelName(row.model),
        version_number=row.version_number,
        dataset_sha256=Sha256(row.dataset_sha256),
        pipeline=row.pipeline,
        schemes=row.schemes,
        profiles=row.profiles,
        budget=row.budget,
        objective=row.objective,
        image_input=row.image_input,
        batch=row.batch,
        runtimes=row.runtimes,
    )
    return Conversion(
        conversion_id=ConversionId(row.conversion_id),
        order=order,
        state=row.state,
        step=row.step,
        fraction=row.fraction,
        failure=row.failure,
        message=row.message,
        artifacts=row.artifacts,
        candidates=row.candidates,
        card=row.card,
        result_sha256=Sha256(row.result_sha256) if row.result_sha256 else None,
        attempts=row.attempts,
        created_at=row.created_at,
    )


def _release(row: ReleaseRow) -> Release:
    release_id = ReleaseId(row.release_id)
    manifest = None
    if row.manifest_sha256 is not None:
        manifest = TargetRef(
            path=manifest_path(release_id), length_bytes=row.manifest_bytes, sha256=Sha256(row.manifest_sha256)
        )
    return Release(
        release_id=release_id,
        conversion_id=ConversionId(row.conversion_id),
        model=ModelName(row.model),
        version_number=row.version_number,
        release_counter=row.release_counter,
        manifest=manifest,
        artifacts=row.artifacts,
        profile_order=row.profile_order,
        created_at=row.created_at,
        options=row.options,
        components=row.components,
    )
