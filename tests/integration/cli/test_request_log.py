"""What an operator sees of requests that devices wrote down."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.operator import Operator


def test_device_that_sent_nothing_has_nothing_to_show(operator: Operator) -> None:
    operator.must("device", "invite", "quiet", "--out", str(operator.folder / "quiet.invite"))
    assert operator.must("device", "request-log", "show", "quiet").out == ""
    assert operator.must("device", "request-log", "show", "quiet", "--model", "digits").out == ""
    assert "drift" not in operator.must("device", "show", "quiet").out
