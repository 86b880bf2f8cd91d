"""A release without a controller: verified as a device verifies, served by the agent's own serving process."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent import exported
from agent.grants import add_grant, new_key
from controller.image_context import EXPORTED
from controller.trust.authority import Authority
from shared.clock import SystemClock
from shared.errors import DigestMismatchError, UntrustedError
from shared.ids import Sha256
from shared.pipeline import MODEL_ONLY, PipelineSpec, RunModel
from shared.wire import DesiredModel
from tests.support import models
from tests.support.exported import FINDER, RELEASE, export
from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import stop_process
from tests.support.serving import infer_body, one_hot
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
BOTH = PipelineSpec(
    steps=(
        RunModel(id="own", takes=("request",)),
        RunModel(id="other", takes=("request",), model="finder"),
    ),
    answers=("own", "other"),
)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path, **changed: object) -> None:
    """Change what the folder says that it holds."""
    path = folder / exported.WANTED_FILE
    wanted = msgspec.json.decode(path.read_bytes(), type=DesiredModel)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(wanted, **changed)))


def test_export_untouched_verifies(tmp_path: Path) -> None:
    told = export(tmp_path, pipeline=MODEL_ONLY)
    found = exported.verify(tmp_path / EXPORTED, root_sha256=Sha256(told.root_sha256))
    assert (found.wanted.release_id, found.manifest.version_number) == (RELEASE, 4)
    [slot] = found.plan().slots
    assert (slot.artifact_sha256, slot.version_number) == (told.wanted.artifact.sha256, 4)


def test_export_with_a_component_verifies_and_plans_it(tmp_path: Path) -> None:
    export(tmp_path, pipeline=BOTH, finder=models.one_hot_classifier(shift=1))
    [slot] = exported.verify(tmp_path / EXPORTED).plan().slots
    assert [part.name for part in slot.components] == ["finder"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("release/model.tflite", DigestMismatchError),
        ("release/manifest.json", DigestMismatchError),
        ("release/components/finder.tflite", DigestMismatchError),
        ("trust/root.json", UntrustedError),
        ("trust/targets.json", UntrustedError),
    ],
)
def test_attack_one_flipped_bit_is_refused(tmp_path: Path, name: str, error: type[Exception]) -> None:
    export(tmp_path, pipeline=BOTH, finder=models.one_hot_classifier(shift=1))
    flip(tmp_path / EXPORTED / name)
    with pytest.raises(error):
        exported.verify(tmp_path / EXPORTED)


def test_attack_flipped_bit_in_a_hash_bin_is_refused(tmp_path: Path) -> None:
    export(tmp_path, pipeline=MODEL_ONLY)
    for bin_ in (tmp_path / EXPORTED / "trust").glob("bins-*.json"):
        flip(bin_)
    with pytest.raises(UntrustedError):
        exported.verify(tmp_path / EXPORTED)


def test_attack_everything_signed_by_another_root_is_refused_where_the_root_is_named(tmp_path: Path) -> None:
    told = export(tmp_path / "ours", pipeline=MODEL_ONLY)
    export(tmp_path / "theirs", pipeline=MODEL_ONLY)
    exported.verify(tmp_path / "theirs" / EXPORTED)
    with pytest.raises(UntrustedError, match="is not the root that was exported"):
        exported.verify(tmp_path / "theirs" / EXPORTED, root_sha256=Sha256(told.root_sha256))


def _no_components(folder: Path) -> None:
    rewrite(folder, components=msgspec.UNSET)


def _other_release(folder: Path) -> None:
    rewrite(folder, release_id=FINDER)


def _other_hardware(folder: Path) -> None:
    rewrite(folder, profile_id="pi")


def _no_bins(folder: Path) -> None:
    for bin_ in (folder / "trust").glob("bins-*.json"):
        bin_.unlink()


def _no_description(folder: Path) -> None:
    (folder / exported.WANTED_FILE).write_text("{}")


@pytest.mark.parametrize("attack", [_no_components, _other_release, _other_hardware, _no_bins, _no_description])
def test_attack_description_that_the_signatures_do_not_bear_out_is_refused(
    tmp_path: Path, attack: Callable[[Path], None]
) -> None:
    export(tmp_path, pipeline=BOTH, finder=models.one_hot_classifier(shift=1))
    attack(tmp_path / EXPORTED)
    with pytest.raises(UntrustedError):
        exported.verify(tmp_path / EXPORTED)


def test_release_that_was_withdrawn_is_refused(tmp_path: Path) -> None:
    export(tmp_path, pipeline=MODEL_ONLY, min_release_counter=99)
    with pytest.raises(UntrustedError, match="below 99"):
        exported.verify(tmp_path / EXPORTED)


def run(folder: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.exported", command, str(folder), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_program_says_what_it_verified_and_ends_with_1_on_a_flipped_byte(tmp_path: Path) -> None:
    told = export(tmp_path, pipeline=MODEL_ONLY)
    good = run(tmp_path / EXPORTED, "verify", "--root-sha256", told.root_sha256)
    assert (good.returncode, "verified digits/4" in good.stderr) == (0, True), good.stderr
    flip(tmp_path / EXPORTED / "release" / "model.tflite")
    bad = run(tmp_path / EXPORTED, "verify")
    assert (bad.returncode, "model.tflite: sha256 is" in bad.stderr) == (1, True), bad.stderr


def test_server_of_an_export_answers_and_ends_when_told_to(tmp_path: Path) -> None:
    export(tmp_path, pipeline=MODEL_ONLY)
    port, config = free_port(), tmp_path / "agent.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nhttp_port = {port}\n')
    with serving(tmp_path / EXPORTED, config) as process:
        wait_until(lambda: _answers(port), what="the server answers", within_s=30)
        body = infer_body(one_hot(3))
        request = urllib.request.Request(f"http://{LOOPBACK}:{port}/v2/models/digits/infer", data=body)
        with urllib.request.urlopen(request, timeout=10) as reply:
            answer = json.loads(reply.read())
        scores = answer["outputs"][0]["data"]
        assert (scores.index(max(scores)), answer["model_version"]) == (3, "4")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    flip(tmp_path / EXPORTED / "release" / "model.tflite")
    again = run(tmp_path / EXPORTED, "serve", "--config", str(config))
    assert (again.returncode, "model.tflite: sha256 is" in again.stderr) == (1, True)


def test_server_open_to_other_machines_without_tls_is_refused(tmp_path: Path) -> None:
    export(tmp_path, pipeline=MODEL_ONLY)
    config = tmp_path / "agent.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nhttp_host = "0.0.0.0"\n')
    refused = run(tmp_path / EXPORTED, "serve", "--config", str(config))
    assert refused.returncode != 0
    assert "other machines are answered over TLS only" in refused.stderr


def test_server_open_to_other_machines_answers_over_tls_and_to_applications_alone(tmp_path: Path) -> None:
    export(tmp_path, pipeline=MODEL_ONLY)
    files = Authority.open(tmp_path / "authority", SystemClock()).server_files("server", (LOOPBACK,))
    port, config, key = free_port(), tmp_path / "agent.toml", new_key()
    add_grant(tmp_path / "applications.json", "shop", key=key, models=["digits"], requests_per_minute=None)
    config.write_text(
        f'state_dir = "{tmp_path}/state"\nhttp_host = "0.0.0.0"\nhttp_port = {port}\n'
        f'tls_certificate = "{files.certificate}"\ntls_key = "{files.key}"\n'
        f'applications_path = "{tmp_path}/applications.json"\n'
    )
    context = ssl.create_default_context(cafile=str(files.ca))
    with serving(tmp_path / EXPORTED, config):
        wait_until(lambda: _answers(port, context), what="the server answers", within_s=30)
        url = f"https://{LOOPBACK}:{port}/v2/models/digits/infer"
        body = infer_body(one_hot(3))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, data=body, timeout=10, context=context)
        let_in = urllib.request.Request(url, data=body, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(let_in, timeout=10, context=context) as reply:
            assert json.loads(reply.read())["model_version"] == "4"


@contextmanager
def serving(folder: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Serve an export in a process of its own."""
    command = [sys.executable, "-m", "agent.exported", "serve", str(folder), "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        stop_process(process)


def _answers(port: int, context: ssl.SSLContext | None = None) -> bool:
    scheme = "http" if context is None else "https"
    try:
        urllib.request.urlopen(f"{scheme}://{LOOPBACK}:{port}/v2/health/ready", timeout=2, context=context).close()
    except urllib.error.URLError:
        return False
    return True
