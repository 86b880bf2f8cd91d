"""`litefleet demo`: the whole job, on this machine, in two or three minutes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from controller.demo.broker_kind import BrokerKind


def demo(
    devices: Annotated[int, typer.Option(min=4, max=200, help="How many agents to start.")] = 12,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, to try the commands.")] = False,
    broker: Annotated[
        BrokerKind, typer.Option(help="auto: mosquitto where it is installed, else amqtt.")
    ] = BrokerKind.AUTO,
    ci: Annotated[bool, typer.Option("--ci", help="Check every claim; last line is JSON; exit 0 or 1.")] = False,
) -> None:
    """Run the main job for real: train, convert, sign, roll out in waves, and stop a bad release by itself.

    Controller, broker and agents are processes of their own on free loopback ports; their state is in one temporary
    folder.
    """
    from controller.demo.run import run_demo

    try:
        code = asyncio.run(run_demo(devices=devices, keep=keep, ci=ci, broker=broker))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    raise typer.Exit(code)
