"""Releases that add something to their conversion: a pipeline, models of other releases, consent to request logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from controller.facts import ArtifactChoice
from shared import manifest
from shared.hardware import GENERIC, DeviceHardware, HardwareProfile, Runtime
from shared.ids import HardwareProfileId, ReleaseId

if TYPE_CHECKING:
    from shared.manifest import ReleaseManifest
    from tests.support.registry_world import World

Answer = dict[str, object]
PI = HardwareProfile(profile_id=HardwareProfileId("pi"), architectures=("aarch64",))
FAN_OUT: Answer = {
    "steps": [
        {"type": "run_model", "id": "own", "takes": ["request"]},
        {"type": "run_model", "id": "other", "takes": ["request"], "model": "finder"},
    ],
    "answers": ["own", "other"],
}


def profiles(*listed: HardwareProfile) -> object:
    return msgspec.to_builtins(listed)


async def document(world: World, release: Answer) -> ReleaseManifest:
    stored = await world.releases.release(str(release["release_id"]))
    assert stored.manifest is not None
    return manifest.decode(await world.blobs.read(stored.manifest.sha256))


async def test_release_with_a_component_carries_it_in_manifest_and_for_each_device(world: World) -> None:
    finder = await world.release("good finder")
    conversion_id = await world.ordered()
    body: Answer = {
        "conversion_id": conversion_id,
        "pipeline": FAN_OUT,
        "components": {"finder": finder["release_id"]},
        "log_consent": {"inputs": True},
    }
    status, released = await world.post("/releases", body)
    assert status == 201, released
    made = await document(world, released)
    [component] = made.components
    assert (component.name, component.model, component.release_id) == ("finder", "digits", finder["release_id"])
    assert component.artifacts == (await document(world, finder)).artifacts
    assert made.log_consent is not None
    assert (made.log_consent.inputs, made.log_consent.outputs, made.log_consent.upstream) == (True, True, False)
    assert made.pipeline.answers == ("own", "other")
    hardware = DeviceHardware(
        architecture="x86_64", memory_bytes=10**9, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
    )
    async with world.database.unit_of_work(read_only=True) as uow:
        choice = await world.releases.fit(uow, ReleaseId(str(released["release_id"])), hardware)
    assert isinstance(choice, ArtifactChoice)
    [wanted] = choice.components
    assert (wanted.name, wanted.artifact.path) == ("finder", component.artifacts[0].path)
    assert wanted.artifact.path in {file.path for file in world.publisher.published}


async def test_release_with_other_options_is_another_and_with_the_same_the_same(world: World) -> None:
    plain = await world.release()
    body: Answer = {"conversion_id": plain["conversion_id"], "log_consent": {}}
    status, consenting = await world.post("/releases", body)
    assert (status, consenting["release_id"] != plain["release_id"]) == (201, True)
    assert await world.post("/releases", body) == (200, consenting)
    assert await world.post("/releases", {"conversion_id": plain["conversion_id"]}) == (200, plain)


async def test_release_of_a_component_deleted_since_is_finished_all_the_same(world: World) -> None:
    finder = await world.release("good finder")
    conversion_id = await world.ordered()
    world.publisher.away = True
    body: Answer = {
        "conversion_id": conversion_id,
        "pipeline": FAN_OUT,
        "components": {"finder": finder["release_id"]},
    }
    assert (await world.post("/releases", body))[0] == 503
    world.publisher.away = False
    async with world.api.delete(f"/api/v1/releases/{finder['release_id']}") as reply:
        assert reply.status == 204
    await world.releases.recover()
    [released] = await world.releases.releases(after=None, limit=10)
    assert [one.name for one in released.components] == ["finder"]


async def test_component_without_an_artifact_for_a_profile_is_refused_by_name(world: World) -> None:
    finder = await world.release("good finder", profiles=profiles(GENERIC))
    conversion_id = await world.ordered("good", profiles=profiles(PI, GENERIC))
    body: Answer = {
        "conversion_id": conversion_id,
        "pipeline": FAN_OUT,
        "components": {"finder": finder["release_id"]},
    }
    status, problem = await world.post("/releases", body)
    assert status == 422
    assert "digits/1 has no artifact for the profile pi" in str(problem)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"components": {}}, "no component 'finder'"),
        ({"pipeline": None}, "no step runs 'finder'"),
        ({"components": {"finder": "nothing"}}, "no release nothing"),
        ({"components": {"a b": "nothing"}}, "is no name: a-z, 0-9 and -"),
        ({"pipeline": {"steps": [{"type": "softmax"}]}, "components": {}}, "no run_model step"),
        ({"pipeline": {"steps": [{"type": "no_such_step"}]}}, "Invalid value 'no_such_step'"),
    ],
)
async def test_options_that_no_device_could_run_are_refused(world: World, changed: Answer, why: str) -> None:
    finder = await world.release("good finder")
    conversion_id = await world.ordered()
    body: Answer = {
        "conversion_id": conversion_id,
        "pipeline": FAN_OUT,
        "components": {"finder": finder["release_id"]},
        **changed,
    }
    status, problem = await world.post("/releases", body)
    assert (status, why in str(problem)) == (422, True), problem


async def test_component_that_has_components_itself_is_refused(world: World) -> None:
    finder = await world.release("good finder")
    nested: Answer = {
        "conversion_id": finder["conversion_id"],
        "pipeline": FAN_OUT,
        "components": {"finder": finder["release_id"]},
    }
    _, inner = await world.post("/releases", nested)
    body = {**nested, "conversion_id": await world.ordered(), "components": {"finder": inner["release_id"]}}
    status, problem = await world.post("/releases", body)
    assert (status, "runs components itself" in str(problem)) == (422, True)


async def test_normalising_twice_is_refused(world: World) -> None:
    conversion_id = await world.ordered(
        "good", image_input=True, pipeline={"steps": [{"type": "normalise", "scale": 0.5}, {"type": "run_model"}]}
    )
    body: Answer = {
        "conversion_id": conversion_id,
        "pipeline": {"steps": [{"type": "normalise", "scale": 0.5}, {"type": "run_model"}, {"type": "softmax"}]},
    }
    status, problem = await world.post("/releases", body)
    assert (status, "was folded by the conversion" in str(problem)) == (422, True), problem
    body["pipeline"] = {"steps": [{"type": "run_model"}, {"type": "softmax"}]}
    status, released = await world.post("/releases", body)
    assert status == 201
    assert len(cast("list[object]", cast("Answer", released["pipeline"])["steps"])) == 2
