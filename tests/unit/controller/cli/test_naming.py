from __future__ import annotations

import pytest

from controller.cli.naming import called, names_of, the_one
from controller.views import ReleaseView
from shared.errors import ConflictError, NotFoundError

FIRST = "01a20578-13f6-7553-b0a0-080dd63405b0"
SECOND = "01a2057c-59d3-7b28-b48b-74100ab277d4"


@pytest.mark.parametrize("typed", [FIRST, FIRST[:10], FIRST[-4:], "d63405b0"])
def test_id_is_found_by_either_end(typed: str) -> None:
    assert the_one(typed, [FIRST, SECOND], kind="release") == FIRST


@pytest.mark.parametrize("typed", ["", "5b0", "7553", "ffffffff"])
def test_id_too_short_inside_or_unknown_is_not_found(typed: str) -> None:
    with pytest.raises(NotFoundError):
        the_one(typed, [FIRST, SECOND], kind="release")


def test_id_of_several_is_refused_with_what_tells_them_apart() -> None:
    with pytest.raises(ConflictError, match=r"names 2 of them: d63405b0, 0ab277d4; type more of it"):
        the_one("01a205", [FIRST, SECOND], kind="rollout")


def test_release_is_called_by_its_name_while_there_is_one() -> None:
    release = ReleaseView(release_id=FIRST, model="digits", version_number=2, release_counter=7, manifest_sha256="0")
    names = names_of([release])
    assert [called(one, names) for one in (FIRST, SECOND, None)] == ["digits/2", "0ab277d4", "nothing"]
