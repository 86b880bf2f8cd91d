"""Where each front end's libraries live: environments of their own, since no one environment can hold them all."""

from __future__ import annotations

from converters.environments.located import Environment, Located, locate, of_format

__all__ = ["Environment", "Located", "locate", "of_format"]
