"""From uploaded bytes to a published release, over HTTP, on both databases."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from controller.facts import ArtifactChoice, Misfit
from controller.registry import store
from controller.registry.conversions import Conversions
from controller.registry.core.types import ConversionState
from shared import dataset, manifest
from shared.conversion import RuntimeVersion
from shared.hardware import DeviceHardware, Runtime
from shared.ids import ReleaseId, Sha256
from tests.support.datasets import opaque, spec_of
from tests.support.registry_world import BreakingWorker, World, order_of
from tests.support.waiting import wait_until_async


def _document() -> dict[str, object]:
    document: dict[str, object] = msgspec.json.decode(dataset.encode(spec_of(opaque())))
    return document


async def test_version_same_bytes_again_is_the_same_version(world: World) -> None:
    source = await world.upload(b"model")
    body: dict[str, object] = {"sha256": source, "filename": "a.keras", "source_format": "keras"}
    first_status, first = await world.post("/models/digits/versions", body)
    again_status, again = await world.post("/models/digits/versions", {**body, "filename": "b.keras"})
    assert (first_status, again_status, again) == (201, 200, first)
    assert (await world.get("/models/digits"))["versions"] == 1


async def test_version_numbers_count_within_their_model(world: World) -> None:
    for model, data in (("digits", b"1"), ("digits", b"2"), ("doors", b"1")):
        await world.post(
            f"/models/{model}/versions",
            {"sha256": await world.upload(data), "filename": "m.keras", "source_format": "keras"},
        )
    assert (await world.get("/models/digits/versions/2"))["number"] == 2
    assert (await world.get("/models/doors"))["versions"] == 1


async def test_versions_list_is_paged_by_cursor(world: World) -> None:
    for number in range(5):
        sha256 = await world.upload(b"%d" % number)
        await world.post("/models/digits/versions", {"sha256": sha256, "filename": "m.keras", "source_format": "keras"})
    seen: list[int] = []
    page = await world.get("/models/digits/versions?limit=2")
    while True:
        items = page["items"]
        assert isinstance(items, list)
        seen += [item["number"] for item in items]
        if page["next"] is None:
            break
        page = await world.get(f"/models/digits/versions?limit=2&after={page['next']}")
    assert seen == [1, 2, 3, 4, 5]


async def test_version_not_uploaded_is_422_with_remedy(world: World) -> None:
    body: dict[str, object] = {"sha256": "0" * 64, "filename": "m.keras", "source_format": "keras"}
    status, problem = await world.post("/models/digits/versions", body)
    assert (status, "/api/v1/uploads" in str(problem["detail"])) == (422, True)


@pytest.mark.parametrize("filename", ["../m.keras", "a\\b", "..", "a\nb", "", "x" * 256])
async def test_attack_filename_that_is_a_path_is_422(world: World, filename: str) -> None:
    sha256 = await world.upload(b"model")
    status, _ = await world.post(
        "/models/digits/versions", {"sha256": sha256, "filename": filename, "source_format": "keras"}
    )
    assert status == 422


async def test_model_name_that_is_no_slug_is_422(world: World) -> None:
    sha256 = await world.upload(b"model")
    body: dict[str, object] = {"sha256": sha256, "filename": "m.keras", "source_format": "keras"}
    status, problem = await world.post("/models/Digits!/versions", body)
    assert (status, problem["reason"]) == (422, "invalid_id")


async def test_dataset_same_document_again_is_the_same_dataset(world: World) -> None:
    for content in opaque().values():
        await world.upload(content)
    document = _document()
    first_status, first = await world.post("/datasets", {"document": document})
    again_status, again = await world.post("/datasets", {"document": dict(reversed(document.items()))})
    assert (first_status, again_status, again) == (201, 200, first)
    assert (first["shards"], first["licence"], first["kind"]) == (3, "CC0-1.0", "arrays")
    assert first["sha256"] == dataset.digest(spec_of(opaque()))
    assert await world.get(f"/datasets/{first['sha256']}/document") == {"document": document}


async def test_dataset_whose_shards_are_missing_is_409_and_names_them(world: World) -> None:
    await world.upload(opaque()["gate.npz"])
    status, problem = await world.post("/datasets", {"document": msgspec.to_builtins(spec_of(opaque()))})
    assert status == 409
    assert ["calibration.npz" in str(problem), "search.npz" in str(problem), "gate.npz" in str(problem)] == [
        True,
        True,
        False,
    ]
    assert (await world.get("/datasets"))["items"] == []


@pytest.mark.parametrize(
    ("shard", "pointer"),
    [
        ({"path": "../../etc/passwd"}, "#/document/shards/0/path"),
        ({"length_bytes": 1}, "#/document/shards/0/length_bytes"),
        ({"sha256": "x"}, "#/document/shards/0/sha256"),
    ],
)
async def test_attack_document_that_names_other_files_is_422(
    world: World, shard: dict[str, object], pointer: str
) -> None:
    await world.data()
    document = _document()
    shards = document["shards"]
    assert isinstance(shards, list)
    shards[0] |= shard
    status, problem = await world.post("/datasets", {"document": document})
    errors = problem["errors"]
    assert isinstance(errors, list)
    assert (status, errors[0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"version_number": 9}, "#/version_number"),
        ({"dataset_sha256": "0" * 64}, "#/dataset_sha256"),
        ({"pipeline": {"steps": [{"type": "softmax"}]}}, "#/pipeline/steps"),
        ({"budget": {"max_drop": 2}}, "#/budget/max_drop"),
        ({"budget": {"max_dorp": 0.1}}, "#/budget"),
        ({"objective": "prettiest"}, "#/objective"),
        ({"batch": 0}, "#/batch"),
        ({"schemes": ["int4"]}, "#/schemes/0"),
        ({"profiles": [{"profile_id": "p", "architectures": []}]}, "#/profiles/0/architectures"),
    ],
)
async def test_conversion_of_unusable_input_is_422_and_names_it(
    world: World, changed: dict[str, object], pointer: str
) -> None:
    await world.order()
    status, problem = await world.post("/conversions", order_of(1, await world.data(), **changed))
    errors = problem["errors"]
    assert isinstance(errors, list)
    assert (status, errors[0]["pointer"]) == (422, pointer)


async def test_conversion_good_succeeds_with_its_artifacts(world: World) -> None:
    async with world.working():
        shown = await world.converted(await world.order())
    artifacts = shown["artifacts"]
    assert isinstance(artifacts, list)
    assert (shown["state"], shown["fraction"]) == ("succeeded", 1.0)
    assert (artifacts[0]["scheme"], artifacts[0]["accuracy"]["artifact"]) == ("full_int8", 0.9)


async def test_conversion_ordered_again_is_the_same_until_it_failed(world: World) -> None:
    first = await world.order()
    assert await world.order() == first
    failing = await world.order("segfault")
    async with world.working():
        await world.converted(first)
        await world.converted(failing)
    assert await world.order() == first
    assert await world.order("segfault") != failing


async def test_conversion_bad_fails_with_its_kind_and_the_queue_goes_on(world: World) -> None:
    async with world.working():
        bad, good = await world.order("segfault"), await world.order("good")
        assert (await world.converted(bad))["failure"] == "crashed"
        assert (await world.converted(good))["state"] == "succeeded"


async def test_conversion_cut_by_a_restart_is_queued_again_and_succeeds(world: World) -> None:
    async with world.working():
        conversion_id = await world.order()

        async def running() -> bool:
            return (await world.get(f"/conversions/{conversion_id}"))["state"] != "queued"

        await wait_until_async(running)
    # The worker is gone; whether it ended in time or not, a new controller brings it to its end.
    await world.conversions.recover()
    async with world.working():
        assert (await world.converted(conversion_id))["state"] == "succeeded"


async def test_conversion_whose_program_says_what_no_database_stores_ends_all_the_same(world: World) -> None:
    async with world.working():
        shown = await world.converted(await world.order("mumble"))
    assert (shown["state"], shown["message"]) == ("failed", "bad input")


async def test_conversion_whose_worker_broke_is_taken_up_when_the_worker_starts_again(world: World) -> None:
    conversion_id = await world.order()
    breaking = Conversions(
        database=world.database,
        blobs=world.blobs,
        worker=BreakingWorker(),
        runtimes=world.fleet,
        clock=world.conversions._clock,
    )
    for _ in range(2):
        with pytest.raises(ExceptionGroup):
            await breaking.work()
    assert (await world.get(f"/conversions/{conversion_id}"))["state"] == "running"
    async with world.working():
        assert (await world.converted(conversion_id))["state"] == "succeeded"


async def test_conversion_cut_three_times_is_given_up(world: World) -> None:
    conversion_id = await world.order()
    for _ in range(3):
        async with world.database.unit_of_work() as uow:
            [queued] = await store.conversions_in(uow.session, ConversionState.QUEUED, limit=1)
            assert queued.conversion_id == conversion_id
        ended = Conversions(
            database=world.database,
            blobs=world.blobs,
            worker=BreakingWorker(),
            runtimes=world.fleet,
            clock=world.conversions._clock,
        )
        await ended._claim()
        await world.conversions.recover()
    shown = await world.get(f"/conversions/{conversion_id}")
    assert (shown["state"], shown["failure"]) == ("failed", "crashed")


async def test_conversion_waiting_is_canceled_at_once_and_may_be_ordered_anew(world: World) -> None:
    conversion_id = await world.order()
    status, canceled = await world.post(f"/conversions/{conversion_id}/cancel", {})
    assert (status, canceled["state"]) == (200, "canceled")
    assert (await world.post(f"/conversions/{conversion_id}/cancel", {}))[0] == 200
    assert await world.order() != conversion_id


async def test_conversion_running_is_canceled_and_the_queue_goes_on(world: World) -> None:
    async with world.working():
        hanging = await world.order("hang")

        async def running() -> bool:
            return (await world.get(f"/conversions/{hanging}"))["step"] == "hang"

        await wait_until_async(running)
        await world.post(f"/conversions/{hanging}/cancel", {})
        good = await world.order("good")
        assert (await world.converted(good))["state"] == "succeeded"
        assert (await world.get(f"/conversions/{hanging}"))["state"] == "canceled"


async def test_conversion_that_ended_cannot_be_canceled(world: World) -> None:
    async with world.working():
        conversion_id = await world.order()
        await world.converted(conversion_id)
    assert (await world.post(f"/conversions/{conversion_id}/cancel", {}))[0] == 409
    assert (await world.post("/conversions/none/cancel", {}))[0] == 404


async def test_conversions_run_at_once_where_there_are_workers_for_them(world: World) -> None:
    hanging = [await world.order(f"hang {number}") for number in range(2)]
    async with world.working(), world.working():

        async def both() -> bool:
            shown = [await world.get(f"/conversions/{one}") for one in hanging]
            return [one["step"] for one in shown] == ["hang", "hang"]

        await wait_until_async(both, within_s=20)
        for one in hanging:
            await world.post(f"/conversions/{one}/cancel", {})


async def test_conversions_cut_together_are_all_brought_to_their_end(world: World) -> None:
    cut = [await world.order(f"good {number}") for number in range(3)]
    for _ in cut:
        # As a controller that ends in the middle of each leaves them.
        await world.conversions._claim()
    world.conversions._held.clear()
    async with world.working(), world.working():
        assert {(await world.converted(one))["state"] for one in cut} == {"succeeded"}


async def test_conversion_canceled_while_its_outcome_is_on_its_way_stays_canceled(world: World) -> None:
    conversion_id = await world.order()
    claimed = await world.conversions._claim()
    assert claimed is not None
    await world.post(f"/conversions/{conversion_id}/cancel", {})
    await world.conversions._save(replace(claimed[0], state=ConversionState.SUCCEEDED), audited=True)
    assert (await world.get(f"/conversions/{conversion_id}"))["state"] == "canceled"


async def test_conversion_shows_what_was_tried_and_serves_its_card_harmless(world: World) -> None:
    async with world.working():
        shown = await world.converted(await world.order("card"))
    candidates = shown["candidates"]
    assert isinstance(candidates, list)
    assert [(one["recipe"]["scheme"], one["outcome"]) for one in candidates] == [("full_int8", "chosen: generic")]
    base = f"/conversions/{shown['conversion_id']}/card"
    assert await world.get(base) == {"name": "a card"}
    async with world.api.get(f"/api/v1{base}.html") as reply:
        policy = reply.headers["Content-Security-Policy"]
        assert (reply.status, reply.content_type) == (200, "text/html")
    assert ["default-src 'none'" in policy, "sandbox" in policy, "script" in policy] == [True, True, False]
    listed = (await world.get("/conversions"))["items"]
    assert isinstance(listed, list)
    assert (listed[0]["card"], listed[0]["candidates"]) == (True, [])


async def test_conversion_without_a_card_has_none_to_show(world: World) -> None:
    conversion_id = await world.order()
    for name in ("card", "card.html"):
        async with world.api.get(f"/api/v1/conversions/{conversion_id}/{name}") as reply:
            assert reply.status == 404


async def test_conversion_ordered_after_the_fleet_changed_is_another(world: World) -> None:
    first = await world.order("describe")
    assert await world.order("describe") == first
    world.fleet.present = (RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version="2.14.0"),)
    second = await world.order("describe")
    assert second != first
    async with world.working():
        told = json.loads(str((await world.converted(second))["message"]))
    assert told["runtimes"] == ["tflite-runtime==2.14.0"]


async def test_release_publishes_artifact_then_manifest_that_names_it(world: World) -> None:
    released = await world.release()
    artifact, listed = world.publisher.published
    data = await world.blobs.read(listed.sha256)
    document = manifest.decode(data)
    assert (listed.path, manifest.digest(data)) == (
        f"releases/{released['release_id']}.json",
        released["manifest_sha256"],
    )
    assert [(a.path, a.sha256) for a in document.artifacts] == [(artifact.path, artifact.sha256)]
    assert (document.model, document.version_number, document.release_counter) == ("digits", 1, 1)
    assert (await world.get("/releases"))["items"] == [released]


async def test_release_of_the_same_conversion_again_is_the_same(world: World) -> None:
    released = await world.release()
    status, again = await world.post("/releases", {"conversion_id": released["conversion_id"]})
    assert (status, again) == (200, released)


async def test_release_cut_before_publishing_goes_on_as_the_same(world: World) -> None:
    async with world.working():
        conversion_id = await world.order()
        await world.converted(conversion_id)
    world.publisher.away = True
    status, problem = await world.post("/releases", {"conversion_id": conversion_id})
    assert (status, problem["reason"]) == (503, "unreachable")
    assert (await world.get("/releases"))["items"] == []
    world.publisher.away = False
    await world.releases.recover()
    [released] = await world.releases.releases(after=None, limit=10)
    status, again = await world.post("/releases", {"conversion_id": conversion_id})
    assert (status, again["release_id"], again["release_counter"]) == (200, released.release_id, 1)


async def test_release_of_a_failed_conversion_is_409(world: World) -> None:
    async with world.working():
        conversion_id = await world.order("silent")
        await world.converted(conversion_id)
    status, problem = await world.post("/releases", {"conversion_id": conversion_id})
    assert (status, "failed" in str(problem["detail"])) == (409, True)


async def test_release_of_an_unknown_conversion_is_422(world: World) -> None:
    assert (await world.post("/releases", {"conversion_id": "none"}))[0] == 422


async def test_release_in_use_cannot_be_deleted(world: World) -> None:
    release_id = str((await world.release())["release_id"])
    world.use.users[release_id] = "rollout 7"
    async with world.api.delete(f"/api/v1/releases/{release_id}") as reply:
        assert (reply.status, "rollout 7" in await reply.text()) == (409, True)
    await world.get(f"/releases/{release_id}")


async def test_release_deleted_is_gone_and_its_counter_is_never_used_again(world: World) -> None:
    released = await world.release()
    async with world.api.delete(f"/api/v1/releases/{released['release_id']}") as reply:
        assert reply.status == 204
    async with world.api.get(f"/api/v1/releases/{released['release_id']}") as reply:
        assert reply.status == 404
    status, again = await world.post("/releases", {"conversion_id": released["conversion_id"]})
    assert (status, again["release_counter"]) == (201, 2)
    assert again["release_id"] != released["release_id"]


@pytest.mark.parametrize(("architecture", "fits"), [("x86_64", True), ("riscv64", False)])
async def test_fit_gives_a_device_its_artifact_or_says_why_not(world: World, architecture: str, fits: bool) -> None:
    release_id = ReleaseId(str((await world.release())["release_id"]))
    hardware = DeviceHardware(
        architecture=architecture, memory_bytes=10**9, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
    )
    async with world.database.unit_of_work(read_only=True) as uow:
        found = await world.releases.fit(uow, release_id, hardware)
        facts = await world.releases.facts(uow, release_id)
    assert (facts.model, facts.release_counter) == ("digits", 1)
    if fits:
        assert isinstance(found, ArtifactChoice)
        assert found.artifact.sha256 == Sha256(world.publisher.published[0].sha256)
    else:
        assert isinstance(found, Misfit)
        assert "riscv64" in found.reason
