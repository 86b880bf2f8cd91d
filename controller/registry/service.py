"""Models, their versions, and datasets: what people bring in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.registry import store
from controller.registry.core.types import Dataset, Model, ModelVersion
from shared import dataset
from shared.errors import ConflictError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from controller.blobs import Blobs
    from controller.db.engine import Database
    from shared.clock import Clock
    from shared.conversion import SourceFormat
    from shared.dataset import DatasetSpec
    from shared.ids import ModelName, Sha256

# A message that names a thousand shards is read by nobody; whoever sends the rest asks again.
_NAMED = 10


class Registry:
    """Gives names and numbers to uploaded files."""

    def __init__(self, *, database: Database, blobs: Blobs, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    async def add_version(
        self, *, actor: str, model: ModelName, sha256: Sha256, filename: str, source_format: SourceFormat
    ) -> tuple[ModelVersion, bool]:
        """Return the version that an uploaded file is, and whether it is a new one.

        Raises:
            InvalidInputError: the file was not uploaded, or its name is no file name.
        """
        _check_filename(filename)
        size_bytes = self._uploaded(sha256)
        async with self._database.unit_of_work(actor=actor) as uow:
            # An upload whose answer was lost is sent again: it must not become version 2.
            known = await store.version_of_bytes(uow.session, model, sha256)
            if known is not None:
                return known, False
            now = self._clock.now()
            await store.ensure_model(uow.session, model, now)
            added = ModelVersion(
                model=model,
                number=await store.next_version_number(uow.session, model),
                sha256=sha256,
                size_bytes=size_bytes,
                filename=filename,
                source_format=source_format,
                created_at=now,
            )
            store.add_version(uow.session, added)
            uow.audit("version.add", f"{model}/{added.number}", {"sha256": sha256, "filename": filename})
        return added, True

    async def model(self, name: ModelName) -> Model:
        """Return a model. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.model(uow.session, name)

    async def models(self, *, after: str, limit: int) -> list[Model]:
        """Return models in the order of their names."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.models(uow.session, after=after, limit=limit)

    async def version(self, name: ModelName, number: int) -> ModelVersion:
        """Return one version. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.version(uow.session, name, number)

    async def versions(self, name: ModelName, *, after: int, limit: int) -> list[ModelVersion]:
        """Return versions of a model, oldest first. Raises NotFoundError when there is no such model."""
        async with self._database.unit_of_work(read_only=True) as uow:
            await store.model(uow.session, name)
            return await store.versions(uow.session, name, after=after, limit=limit)

    async def add_dataset(self, *, actor: str, spec: DatasetSpec) -> tuple[Dataset, bool]:
        """Return the dataset that a document describes, and whether it is a new one.

        Raises:
            InvalidInputError: the document describes none, or another length than an uploaded shard has.
            ConflictError: names the shards that were not uploaded yet.
        """
        try:
            dataset.check(spec)
        except InvalidInputError as exc:
            field = f"document.{exc.field}"
            raise InvalidInputError(field=field, problem=exc.problem, remedy=exc.remedy) from exc
        self._check_shards(spec)
        sha256 = await self._blobs.put_bytes(dataset.encode(spec))
        async with self._database.unit_of_work(actor=actor) as uow:
            known = await store.find_dataset(uow.session, sha256)
            if known is not None:
                return known, False
            added = Dataset(
                sha256=sha256,
                name=spec.name,
                licence=spec.licence,
                kind=spec.kind,
                shards=len(spec.shards),
                size_bytes=sum(shard.length_bytes for shard in spec.shards),
                created_at=self._clock.now(),
            )
            store.add_dataset(uow.session, added)
            uow.audit("dataset.add", sha256, {"name": spec.name})
        return added, True

    async def dataset_spec(self, sha256: Sha256) -> DatasetSpec:
        """Return the document of a dataset. Raises NotFoundError."""
        await self.dataset(sha256)
        return dataset.decode(await self._blobs.read(sha256))

    async def dataset(self, sha256: Sha256) -> Dataset:
        """Return a dataset. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            found = await store.find_dataset(uow.session, sha256)
        if found is None:
            raise NotFoundError(kind="dataset", name=sha256)
        return found

    async def datasets(self, *, after: str, limit: int) -> list[Dataset]:
        """Return datasets in the order of their digests."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.datasets(uow.session, after=after, limit=limit)

    def _check_shards(self, spec: DatasetSpec) -> None:
        missing: list[str] = []
        for index, shard in enumerate(spec.shards):
            try:
                size_bytes = self._blobs.size_bytes(shard.sha256)
            except NotFoundError:
                missing.append(f"{shard.path} ({shard.sha256})")
                continue
            if size_bytes != shard.length_bytes:
                problem = f"{shard.path} has {size_bytes} bytes, not {shard.length_bytes}"
                raise InvalidInputError(field=f"document.shards[{index}].length_bytes", problem=problem)
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            problem = f"misses shards that were not uploaded: {', '.join(missing[:_NAMED])}{more}"
            raise ConflictError(kind="dataset", name=spec.name, problem=problem)

    def _uploaded(self, sha256: Sha256) -> int:
        try:
            return self._blobs.size_bytes(sha256)
        except NotFoundError as exc:
            raise InvalidInputError(
                field="sha256", problem="no such file has been uploaded", remedy="upload it first: POST /api/v1/uploads"
            ) from exc


def _check_filename(filename: str) -> None:
    # It is shown, and suggested to people who download; it never becomes a path here.
    if filename in {".", ".."} or any(character in "/\\" or not character.isprintable() for character in filename):
        raise InvalidInputError(field="filename", problem="not a plain file name", remedy="e.g. model.keras")
