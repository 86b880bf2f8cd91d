"""The demo from beginning to end, and the claims that it holds itself to."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from controller.cli.convert_screen import recipe_text
from controller.cli.output import counted
from controller.demo.attacks import forge_desired, tampered
from controller.demo.broker_kind import BrokerKind
from controller.demo.claims import Claims, broken, summary
from controller.demo.load import read_samples
from controller.demo.processes import ProgramFailedError, Programs
from controller.demo.school import School
from controller.demo.screen import Screen
from controller.demo.story import MAX_DROP, DemoFailedError, Episode, Story
from controller.demo.world import World, build
from shared.clock import SystemClock
from shared.errors import LitefleetError

if TYPE_CHECKING:
    from controller.demo.load import InferenceLoad
    from controller.views import ArtifactView, ConversionView, ReleaseView

_LOAD_REQUESTS = 500
_LOAD_TIMEOUT_S = 120.0
_LONG_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN_DIGITS = 12


async def run_demo(*, devices: int, keep: bool, ci: bool, broker: BrokerKind = BrokerKind.AUTO) -> int:
    """Run the demo and return the exit code: 0 when every claim held. SIGTERM cancels it."""
    running = asyncio.current_task()
    if running is not None:
        # As Ctrl-C: whoever ends the demo means its processes, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    screen = Screen(SystemClock())
    folder = Path(tempfile.mkdtemp(prefix="litefleet-demo-"))
    screen.title("litefleet demo")
    screen.step(f"everything is kept in {folder}")
    programs = Programs(folder)
    claims: Claims | None = None
    try:
        world, claims = await _play(folder, programs, devices, screen, broker)
        problem = broken(claims, devices=devices)
        screen.show(summary(claims))
        if keep and not problem:
            await _stay(world, screen)
    except (LitefleetError, ExceptionGroup) as exc:
        problem = _message(exc)
    finally:
        await programs.stop()
    if problem:
        screen.warn(f"{problem}\n  logs: {folder / 'logs'}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if ci:
        figures = msgspec.to_builtins(claims) if claims is not None else {}
        outcome = {"error": problem} if problem else {}
        sys.stdout.write(msgspec.json.encode({**figures, **outcome}).decode() + "\n")
    return 1 if problem else 0


async def _play(
    folder: Path, programs: Programs, devices: int, screen: Screen, broker: BrokerKind
) -> tuple[World, Claims]:
    clock = SystemClock()
    async with asyncio.TaskGroup() as tasks:
        school = School(programs, folder)
        tasks.create_task(school.train_all())
        world = await build(folder, programs, devices=devices, screen=screen, broker=broker)
        async with world.client() as api:
            return world, await _tell(Story(world=world, api=api, screen=screen, clock=clock), school)


async def _tell(story: Story, school: School) -> Claims:
    screen = story.screen
    screen.title("1  A first release")
    screen.step("training small networks on handwritten digits (scikit-learn)")
    folder_v1 = await school.trained("v1")
    first, conversion = await story.release(folder_v1)
    _show_release(story, first, conversion)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(_release_following(story, school))
        episode_v1 = await story.roll_out(first)
        _must(episode_v1.rollout.state == "completed", "the first release did not reach every device")
        screen.done(f"{first.name} serves on {len(episode_v1.assignments)} devices after {episode_v1.seconds:.0f} s")
        if not following.done():
            screen.step("two more releases are still being trained and converted")
    second, wrong = following.result()

    async with asyncio.TaskGroup() as tasks:
        load = story.start_load(tasks, folder_v1 / "client.npz")
        try:
            requests, failed = await _replace(story, load, second)
            tampered_refused = await _tampered(story, wrong)
            bad, reverted_s = await _wrong(story, wrong)
            back = await story.running_everywhere(second)
            forged_refused = await _forged(story) and not await story.running_everywhere(second)
        finally:
            load.stop()
    # Tried too, and no artifact: what is as good and smaller was taken.
    float32 = next(tried for tried in conversion.candidates if tried.recipe.scheme == "float32")
    deployed = _deployed(first.artifacts)
    return Claims(
        accuracy_float=deployed.accuracy.source,
        accuracy_artifact=deployed.accuracy.artifact,
        bytes_float=float32.length_bytes,
        bytes_artifact=deployed.length_bytes,
        devices=len(story.world.agents),
        requests=requests,
        requests_failed=failed,
        bad_release_devices_exposed=len(bad.exposed()),
        bad_release_seconds_to_reverted=round(reverted_s, 2),
        bad_release_answers=load.tally.by_version.get(str(wrong.version_number), 0),
        bad_release_state=bad.rollout.state,
        devices_not_back=len(back),
        first_wave_devices=bad.rollout.waves[0].devices,
        tampered_refused=tampered_refused,
        forged_refused=forged_refused,
    )


async def _release_following(story: Story, school: School) -> tuple[ReleaseView, ReleaseView]:
    second, _ = await story.release(await school.trained("v2"))
    wrong, _ = await story.release(await school.trained("wrong"))
    return second, wrong


async def _replace(story: Story, load: InferenceLoad, second: ReleaseView) -> tuple[int, int]:
    screen = story.screen
    screen.title("2  A better one, while clients keep asking")
    _show_accuracy(story, second)
    episode = await story.roll_out(second)
    _must(episode.rollout.state == "completed", "the better release did not reach every device")
    await _enough(load)
    requests, failed = load.tally.requests, load.tally.failed
    screen.done(
        f"{second.name} serves everywhere after {episode.seconds:.0f} s; "
        f"{requests} requests, {failed} failed, {100 * load.tally.accuracy():.1f} % right"
    )
    return requests, failed


async def _tampered(story: Story, wrong: ReleaseView) -> bool:
    screen = story.screen
    screen.title("3  A wrong one: trained on labels that a mapping mistake shuffled")
    _show_accuracy(story, wrong)
    screen.done("it converts faithfully and is signed: neither conversion nor golden check can know better")
    screen.step("first, a mirror serves it with one altered byte")
    artifact = _deployed(wrong.artifacts)
    with tampered(next((story.world.controller_state / "blobs").rglob(artifact.sha256))):
        altered = await story.roll_out(wrong)
    reasons = [a.reason for a in altered.assignments if a.reason]
    said = (
        _LONG_DIGEST.sub(lambda found: f"{found[0][:_SHOWN_DIGITS]}…", reasons[0]) if reasons else "no reason reported"
    )
    screen.done(f"refused: {said}")
    return not altered.exposed() and any(reason.startswith("digest_mismatch") for reason in reasons)


async def _wrong(story: Story, wrong: ReleaseView) -> tuple[Episode, float]:
    screen = story.screen
    screen.step("then the genuine, wrong model")
    bad = await story.roll_out(wrong, override=True)
    reverted_s = bad.seconds - (bad.first_activation_s if bad.first_activation_s is not None else bad.seconds)
    for share in bad.assignments:
        if share.activated:
            screen.done(f"{share.device_id} found out by itself: {share.reason}")
    screen.done(
        f"{counted(len(bad.exposed()), 'device')} held it beside the model that answered, for {reverted_s:.1f} s"
    )
    return bad, reverted_s


async def _forged(story: Story) -> bool:
    screen = story.screen
    screen.title("4  A broker that forges an order")
    victim = story.world.agents[0].name
    log = story.world.folder / "logs" / f"{victim}.log"
    answer = await forge_desired(story.api, story.world.broker, device=victim, log=log, clock=story.clock)
    if answer:
        screen.done(f"{victim} refused it: {answer}")
    else:
        screen.warn(f"{victim} said nothing to it")
    return bool(answer)


async def _enough(load: InferenceLoad) -> None:
    async with asyncio.timeout(_LOAD_TIMEOUT_S):
        while load.tally.requests < _LOAD_REQUESTS:  # noqa: ASYNC110 - the load counts, it does not tell
            await asyncio.sleep(0.1)


def _show_release(story: Story, release: ReleaseView, conversion: ConversionView) -> None:
    for tried in conversion.candidates:
        right = f", {100 * tried.accuracy:.1f} % right" if tried.accuracy is not None else ""
        story.screen.verdict(f"{recipe_text(tried.recipe):32} {tried.length_bytes:>7} bytes{right}: {tried.outcome}")
    story.screen.done(_certified(conversion))
    story.screen.done(f"released {release.name}, signed: {_deployed(release.artifacts).scheme} for every device here")


def _certified(conversion: ConversionView) -> str:
    """Say what the gate's samples prove, and not more: a few hundred digits cannot show that nothing was lost."""
    samples = max(artifact.accuracy.samples for artifact in conversion.artifacts)
    bounds = [artifact.drop.bound for artifact in conversion.artifacts if artifact.drop and not artifact.refused]
    measured = f", {100 * min(bounds):.2f} at best" if bounds else ""
    return f"{samples} digits certify with 95 % that no more than {100 * MAX_DROP:g} points were lost{measured}"


def _show_accuracy(story: Story, release: ReleaseView) -> None:
    artifact = _deployed(release.artifacts)
    measured = 100 * artifact.accuracy.artifact
    story.screen.verdict(f"{release.name}: {artifact.scheme}, {measured:.2f} % right by its own team's labels")


def _deployed(artifacts: list[ArtifactView]) -> ArtifactView:
    return min(artifacts, key=lambda artifact: artifact.length_bytes)


async def _stay(world: World, screen: Screen) -> None:
    screen.title("Still running; next commands (Ctrl-C ends it)")
    picture = world.folder / "digit.png"
    picture.write_bytes(read_samples(world.folder / "models" / "v1" / "client.npz")[0].png)
    here = Path(sys.executable).parent
    screen.commands(
        *([] if shutil.which("litefleet") else [f"  export PATH={here}:$PATH"]),
        f"  export LITEFLEET_URL={world.api_url}",
        f"  export LITEFLEET_TOKEN_FILE={world.token_file}",
        "  litefleet device ls",
        f"  litefleet device show {world.agents[0].name}",
        "  litefleet rollout ls                     # then: litefleet rollout explain ROLLOUT",
        "  litefleet rollout start digits/1 --cohort site=north --dry-run",
        f"  curl --data-binary @{picture} -H 'Content-Type: image/png' \\",
        f"       {world.agents[0].url}/v2/models/digits/classify",
    )
    try:
        while True:
            world.programs.check()
            await asyncio.sleep(1)
    except asyncio.CancelledError:
        return


def _must(holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise DemoFailedError(claim)


def _message(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_message(inner) for inner in error.exceptions)
    if isinstance(error, ProgramFailedError):
        return str(error)
    return f"{type(error).__name__}: {error}"
