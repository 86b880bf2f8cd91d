"""`python -m controller --config FILE`: be a controller; its options prepare a broker, or end a recovery."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from controller import logs
from controller.config import ControllerConfig, load
from shared.clock import SystemClock
from shared.errors import LitefleetError

_EXIT_FAILED, _EXIT_USAGE = 1, 2
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - devices come from elsewhere, each with a certificate
_LOOPBACK = "127.0.0.1"


def main(arguments: list[str]) -> int:
    """Read the settings and run; what is wrong with either is one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m controller", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    parser.add_argument(
        "--write-broker-config",
        type=Path,
        metavar="DIR",
        help="write a mosquitto configuration with certificates and ACL into DIR, and exit",
    )
    parser.add_argument(
        "--recovered-from-backup",
        action="store_true",
        help="after the database was restored: begin a new epoch, so that devices believe it again, and exit",
    )
    given = parser.parse_args(arguments)
    try:
        config = load(given.config, os.environ)
    except LitefleetError as error:
        sys.stderr.write(f"litefleet controller: {error}\n")
        return _EXIT_USAGE
    logs.configure(config.log_level)
    try:
        if given.write_broker_config is not None:
            _write_broker_config(config, given.write_broker_config)
        elif given.recovered_from_backup:
            _begin_epoch(config)
        else:
            # What takes time to import is only needed from here on.
            from controller.app import run  # noqa: PLC0415

            asyncio.run(run(config))
    except LitefleetError as error:
        sys.stderr.write(f"litefleet controller: {error}\n")
        return _EXIT_FAILED
    return 0


def _begin_epoch(config: ControllerConfig) -> None:
    from controller.app import begin_epoch  # noqa: PLC0415 - as above

    epoch = asyncio.run(begin_epoch(config))
    sys.stdout.write(
        f"epoch {epoch} begins: start the controller, and every device is sent its orders anew. Halts and rollouts are "
        "as the backup has them: look at each.\n"
    )


def _write_broker_config(config: ControllerConfig, folder: Path) -> None:
    from controller.config import is_loopback  # noqa: PLC0415
    from controller.trust.authority import Authority  # noqa: PLC0415
    from controller.trust.broker_config import write_broker_config  # noqa: PLC0415

    authority = Authority.open(config.state_dir / "authority", SystemClock())
    names = config.broker_names
    host = _LOOPBACK if all(is_loopback(name) for name in names) else _EVERY_ADDRESS
    written = write_broker_config(
        folder,
        authority,
        host=host,
        port=config.broker_port,
        names=names,
        application_port=config.broker_application_port,
    )
    sys.stdout.write(f"mosquitto -c {written}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
