from __future__ import annotations

import msgspec
import pytest

from controller import views


def test_readers_ignore_fields_that_they_do_not_know() -> None:
    raw = b'{"model": "digits", "versions": 2, "owner": "somebody", "tags": {"a": 1}}'
    assert msgspec.json.decode(raw, type=views.ModelView) == views.ModelView(model="digits", versions=2)


def test_readers_do_without_fields_that_an_older_controller_does_not_send() -> None:
    raw = b'{"rollout_id": "r", "release_id": "x", "model": "m", "cohort": "all", "state": "running"}'
    assert msgspec.json.decode(raw, type=views.RolloutView).waves == []


def test_readers_refuse_what_lacks_its_identity() -> None:
    with pytest.raises(msgspec.ValidationError, match="rollout_id"):
        msgspec.json.decode(b'{"state": "running"}', type=views.RolloutView)


def test_page_leaves_its_items_unread_until_somebody_knows_their_kind() -> None:
    page = msgspec.json.decode(b'{"items": [{"model": "a"}, {"model": "b"}], "next": "b"}', type=views.Page)
    assert [msgspec.json.decode(item, type=views.ModelView).model for item in page.items] == ["a", "b"]
    assert page.next == "b"


def test_release_is_called_by_model_and_number() -> None:
    release = views.ReleaseView(release_id="x", model="digits", version_number=3, release_counter=9, manifest_sha256="")
    assert release.name == "digits/3"
