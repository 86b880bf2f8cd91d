"""Where each front end's libraries live: environments of their own, since no one environment can hold them all.

Each has a lock beside this file, `{name}.txt`, with a sha256 for every file that may be installed, and no host to fetch
it from: that is the machine's own configuration. A lock is made anew by
`uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate tf.in -o tf.txt`.
"""

from __future__ import annotations

from converters.environments.located import Environment, Located, locate, of_format

__all__ = ["Environment", "Located", "locate", "of_format"]
