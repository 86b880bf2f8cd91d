"""Releases: made of a conversion, vouched for by the repository, fitted to devices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from controller.facts import ArtifactChoice, ArtifactFacts, Misfit, ReleaseFacts
from controller.registry import measurement_store, store
from controller.registry.core.choice import choose, fitting_artifact, kept_choice
from controller.registry.core.measurement import judged
from controller.registry.core.options import as_desired, component_of, desired_components, in_manifest
from controller.registry.core.options import check as check_options
from controller.registry.core.release import assemble, files_to_publish, release_artifacts
from controller.registry.core.types import NO_OPTIONS, Conversion, ConversionState, Release
from shared import manifest
from shared.clock import mint_id
from shared.conversion import ConversionResult, FailureKind
from shared.errors import ConflictError, InvalidInputError, NotFoundError, PermanentError
from shared.ids import ReleaseId
from shared.wire import TargetRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.blobs import Blobs
    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.registry.core.choice import Choice
    from controller.registry.core.types import ReleaseComponent, ReleaseOptions
    from controller.registry.ports import Publisher, ReleaseUse
    from shared.clock import Clock
    from shared.hardware import DeviceHardware
    from shared.ids import HardwareProfileId
    from shared.wire import DesiredModel

log = structlog.get_logger(__name__)


class Releases:
    """Makes releases, and says what a device gets of one; rollouts see it through their own port."""

    def __init__(
        self, *, database: Database, blobs: Blobs, publisher: Publisher, use: ReleaseUse, clock: Clock
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._publisher = publisher
        self._use = use
        self._clock = clock
        # Two callers must not publish one release at the same time; making one is rare.
        self._making = asyncio.Lock()

    async def create_release(
        self, conversion_id: str, *, actor: str, options: ReleaseOptions = NO_OPTIONS
    ) -> tuple[Release, bool]:
        """Return the release of a conversion with these options, and whether it is a new one.

        Its id and counter are kept before anything is signed, so that a making that was cut short goes on as the same.

        Raises:
            InvalidInputError: no such conversion, no profile has an artifact, or the options fit neither.
            ConflictError: the conversion has not succeeded.
        """
        async with self._making:
            conversion, result = await self._converted(conversion_id)
            check_options(conversion.order, options)
            async with self._database.unit_of_work(actor=actor) as uow:
                begun = await store.release_of_conversion(uow.session, conversion_id, options)
                # One conversion and its options, one release: a repeated request is answered with what the first made.
                if begun is not None and begun.manifest is not None:
                    return begun, False
                if begun is None:
                    begun = await self._begin(uow, conversion, await _chosen(uow, conversion, result), options)
            return await self._publish(begun, conversion, result), True

    async def recover(self) -> None:
        """Finish the releases whose making was cut short."""
        async with self._database.unit_of_work(read_only=True) as uow:
            cut_short = await store.unpublished_releases(uow.session)
        for release in cut_short:
            try:
                async with self._making:
                    conversion, result = await self._converted(release.conversion_id)
                    await self._publish(release, conversion, result)
            except PermanentError as error:
                # Asking for the release again tells its maker the same; the others need not wait for that.
                log.warning("release_not_finished", release_id=release.release_id, detail=str(error))

    async def release(self, release_id: str) -> Release:
        """Return a published release. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await _published(uow, release_id)

    async def releases(self, *, after: str | None, limit: int) -> list[Release]:
        """Return published releases, newest first."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.releases(uow.session, after=after, limit=limit)

    async def delete_release(self, release_id: str, *, actor: str) -> None:
        """Take a release away. What the repository vouched for stays: it is immutable.

        Raises:
            NotFoundError: no such release.
            ConflictError: a rollout or a device still needs it.
        """
        async with self._database.unit_of_work(actor=actor) as uow:
            release = await _published(uow, release_id)
            user = await self._use.in_use(uow, release.release_id)
            if user:
                raise ConflictError(kind="release", name=release_id, problem=f"is in use: {user}")
            await store.mark_deleted(uow.session, release.release_id, self._clock.now())
            uow.audit("release.delete", release_id, {"release": f"{release.model}/{release.version_number}"})

    async def exported(self, release_id: str, profile: HardwareProfileId) -> DesiredModel:
        """Return a release as a device of a profile would be told it. Raises NotFoundError, InvalidInputError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return as_desired(await _published(uow, release_id), profile)

    async def facts(self, uow: UnitOfWork, release_id: ReleaseId) -> ReleaseFacts:
        """Return what a rollout may know of a release. Raises NotFoundError."""
        release = await _published(uow, release_id)
        return ReleaseFacts(
            release_id=release.release_id,
            model=release.model,
            version_number=release.version_number,
            release_counter=release.release_counter,
            log_consent=release.options.log_consent,
        )

    async def fit(self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware) -> ArtifactChoice | Misfit:
        """Return what a device gets of a release, or why nothing. Raises NotFoundError."""
        release = await _published(uow, release_id)
        if release.manifest is None:
            raise NotFoundError(kind="release", name=release_id)
        found = fitting_artifact(release, hardware)
        if isinstance(found, str):
            return Misfit(reason=found)
        artifact, profile = found
        return ArtifactChoice(
            manifest=release.manifest,
            artifact=TargetRef(path=artifact.path, length_bytes=artifact.length_bytes, sha256=artifact.sha256),
            profile_id=profile.profile_id,
            release_counter=release.release_counter,
            components=desired_components(release, profile.profile_id),
        )

    async def artifacts(self, uow: UnitOfWork, release_id: ReleaseId) -> dict[HardwareProfileId, ArtifactFacts]:
        """Return a release's artifact for each profile that it serves. Raises NotFoundError."""
        release = await _published(uow, release_id)
        return {
            profile.profile_id: ArtifactFacts(
                sha256=artifact.sha256, length_bytes=artifact.length_bytes, release_counter=release.release_counter
            )
            for artifact in release.artifacts
            for profile in artifact.profiles
        }

    async def _converted(self, conversion_id: str) -> tuple[Conversion, ConversionResult]:
        async with self._database.unit_of_work(read_only=True) as uow:
            try:
                conversion = await store.conversion(uow.session, conversion_id)
            except NotFoundError as exc:
                raise InvalidInputError(field="conversion_id", problem="no such conversion") from exc
        # One that failed for its latency on the converter may pass by what a device measured.
        judged_again = conversion.failure is FailureKind.NOTHING_PASSED and any(
            not artifact.refused for artifact in conversion.artifacts
        )
        if conversion.result_sha256 is None or not (conversion.state is ConversionState.SUCCEEDED or judged_again):
            problem = f"is {conversion.state}, only a succeeded one can be released"
            raise ConflictError(kind="conversion", name=conversion_id, problem=problem)
        result = msgspec.json.decode(await self._blobs.read(conversion.result_sha256), type=ConversionResult)
        return conversion, result

    async def _begin(self, uow: UnitOfWork, conversion: Conversion, choice: Choice, options: ReleaseOptions) -> Release:
        artifacts = release_artifacts(choice)
        served = {profile.profile_id for artifact in artifacts for profile in artifact.profiles}
        order = tuple(p.profile_id for p in conversion.order.profiles if p.profile_id in served)
        begun = Release(
            release_id=ReleaseId(mint_id(self._clock)),
            conversion_id=conversion.conversion_id,
            model=conversion.order.model,
            version_number=conversion.order.version_number,
            release_counter=await store.next_release_counter(uow.session),
            manifest=None,
            artifacts=artifacts,
            profile_order=order,
            created_at=self._clock.now(),
            options=options,
            components=await _components(uow, options, order),
        )
        store.add_release(uow.session, begun)
        uow.audit(
            "release.create",
            begun.release_id,
            {"release": f"{begun.model}/{begun.version_number}", "release_counter": begun.release_counter},
        )
        return begun

    async def _publish(self, begun: Release, conversion: Conversion, result: ConversionResult) -> Release:
        """Assemble, keep, have signed, note: each step changes nothing when it was done before."""
        # What was chosen when it was begun: a measurement since then must not change a release half made.
        choice = kept_choice(begun, result.artifacts)
        async with self._database.unit_of_work(read_only=True) as uow:
            version = await store.version(uow.session, begun.model, begun.version_number)
        components = tuple([await self._component(one) for one in begun.components])
        assembled = assemble(begun, version=version, conversion=conversion, choice=choice, components=components)
        data = manifest.encode(assembled)
        if len(data) > manifest.MAX_MANIFEST_BYTES:
            problem = f"the manifest has {len(data)} bytes, at most {manifest.MAX_MANIFEST_BYTES} are allowed"
            raise InvalidInputError(
                field="conversion_id", problem=problem, remedy="use smaller inputs or fewer outputs"
            )
        # Bytes first, then the signature over them, then the row: what is signed can always be served.
        sha256 = await self._blobs.put_bytes(data)
        await self._publisher.publish(files_to_publish(begun, manifest_sha256=sha256, manifest_bytes=len(data)))
        target = TargetRef(path=manifest.manifest_path(begun.release_id), length_bytes=len(data), sha256=sha256)
        async with self._database.unit_of_work() as uow:
            await store.mark_published(uow.session, begun.release_id, target)
            return await store.release(uow.session, begun.release_id)

    async def _component(self, component: ReleaseComponent) -> manifest.Component:
        data = await self._blobs.read(component.manifest_sha256)
        return in_manifest(component, manifest.decode(data))


async def _components(
    uow: UnitOfWork, options: ReleaseOptions, profiles: Sequence[HardwareProfileId]
) -> tuple[ReleaseComponent, ...]:
    """Return what is remembered of each component. Raises InvalidInputError."""
    found = []
    for name, release_id in sorted(options.components.items()):
        try:
            other = await _published(uow, release_id)
        except NotFoundError as exc:
            raise InvalidInputError(
                field=f"components.{name}", problem=f"no release {release_id}", remedy="see `litefleet release ls`"
            ) from exc
        found.append(component_of(name, other, profiles))
    return tuple(found)


async def _chosen(uow: UnitOfWork, conversion: Conversion, result: ConversionResult) -> Choice:
    """Return who gets what by all that is known now. Raises InvalidInputError when nobody gets anything."""
    profiles = conversion.order.profiles
    measured = await measurement_store.of_conversion(uow.session, conversion.conversion_id)
    choice = choose(judged(result.artifacts, profiles, measured), profiles, conversion.order.objective)
    if not choice.artifacts:
        problem = "; ".join(f"{profile}: {why}" for profile, why in choice.unserved.items())
        raise InvalidInputError(field="conversion_id", problem=f"no artifact for any profile ({problem})")
    return choice


async def _published(uow: UnitOfWork, release_id: str) -> Release:
    release = await store.release(uow.session, release_id)
    if release.manifest is None:
        raise NotFoundError(kind="release", name=release_id)
    return release
