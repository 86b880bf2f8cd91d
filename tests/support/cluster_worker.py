"""`cluster_worker.py PROGRAM OPTION…`: a worker machine as `converters.serve` is, with another conversion program."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

from converters import serve


def main(program: str, options: list[str]) -> None:
    """Take part until told to end."""
    settings = serve.settings_of(options)
    bench = replace(settings.bench, command=(sys.executable, program))
    asyncio.run(serve.serve(replace(settings, bench=bench)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
