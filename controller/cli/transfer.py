"""Files on their way to the controller, with a bar for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.text import Text

from controller.cli.output import ERR

if TYPE_CHECKING:
    from pathlib import Path

    from controller.client import Client
    from controller.views import DatasetView
    from shared.dataset import Shard
    from shared.ids import Sha256


def transfer_bar() -> Progress:
    """Return bars on stderr that are gone when they are full; in a log there are none."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
    return Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal)


async def upload(api: Client, bar: Progress, path: Path) -> Sha256:
    """Bring one file."""
    task = bar.add_task(f"upload {path.name}", total=None)
    return await api.upload(path, lambda sent, total: bar.update(task, completed=sent, total=total))


async def push_dataset(api: Client, bar: Progress, folder: Path) -> DatasetView:
    """Bring a dataset; what the controller has already is not sent again."""
    tasks: dict[str, TaskID] = {}

    def show(shard: Shard, sent: int, total: int) -> None:
        if shard.path not in tasks:
            tasks[shard.path] = bar.add_task(f"upload {shard.path}", total=total)
            if not ERR.is_terminal:
                there = "there already" if sent == total else f"{total - sent} bytes to send"
                ERR.print(Text(f"upload: {shard.path}, {there}"), soft_wrap=True)
        bar.update(tasks[shard.path], completed=sent)

    return await api.push_dataset(folder, show)
