"""What stands in the folder that an image is built from. `@word@` stands for what differs from release to release."""

from __future__ import annotations

STAGE = """\

# One release, verified when this image is built and again at every start. README.md tells how to run it.
FROM agent
USER root
COPY exported /opt/litefleet-exported
RUN chmod -R a=rX /opt/litefleet-exported
USER 10001
RUN python -m agent.exported verify /opt/litefleet-exported --root-sha256 @root_sha256@
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \\
  CMD ["python", "/opt/litefleet/health.py", "/opt/litefleet-exported/agent.toml"]
CMD ["python", "-m", "agent.exported", "serve", "/opt/litefleet-exported", \\
     "--root-sha256", "@root_sha256@", "--config", "/opt/litefleet-exported/agent.toml"]
"""
"""Follows the agent's own Dockerfile, whose last stage is called `agent`."""

SETTINGS = """\
# Settings of this server; LITEFLEET_AGENT_* in the environment goes before them. The release itself is not set here.
state_dir = "/var/lib/litefleet-agent"
"""
"""`agent.toml`."""

README = """\
# A server of @model@, release @release@

    docker build --tag @model@ .

The build verifies the release: every signature from the root of trust (sha256 `@root_sha256@`)
down to the digest of each file, with the code by which a device verifies what it fetches. One flipped byte fails it.
The same happens whenever a container starts. No controller is needed, and none is asked.

## Run it

It listens on loopback of its own network, and asks nobody there for a key; so share a network with whoever asks:

    docker run --rm --read-only --tmpfs /var/lib/litefleet-agent:uid=10001,mode=0700 --network host @model@
    curl http://127.0.0.1:8080/v2/models/@model@

For an application in another container use `--network container:NAME` in place of `--network host`.

Other machines are answered over TLS only, and only with an application's key. Bring a certificate that the user 10001
can read, and a volume that keeps the applications:

    docker run --detach --name @model@ --publish 8443:8443 --volume @model@-state:/var/lib/litefleet-agent \\
      --volume /etc/ssl/mine:/tls:ro \\
      --env LITEFLEET_AGENT_HTTP_HOST=0.0.0.0 --env LITEFLEET_AGENT_HTTP_PORT=8443 \\
      --env LITEFLEET_AGENT_TLS_CERTIFICATE=/tls/cert.pem --env LITEFLEET_AGENT_TLS_KEY=/tls/key.pem @model@

    docker exec @model@ \\
      litefleet-agent application add shop --models @model@ --config /opt/litefleet-exported/agent.toml
    docker restart @model@

The key is shown that once. Every setting of the agent can be given as above; see its documentation.

## What is in here

| | |
|---|---|
| `Dockerfile` | the agent's own image, from hashed locks, and one stage on top of it |
| `exported/release.json` | which files the release has, as a device would be told |
| `exported/trust/` | the signed metadata over them (TUF: root, top-level targets, hash bins) |
| `exported/release/` | manifest, model and components |
| `exported/agent.toml` | settings |

The metadata's expiry is not looked at: they say what was released, and this image is meant to stay that. Whoever
withdraws a release (`min_release_counter`) reaches fleets, not images; build those anew.
"""
"""For whoever gets the folder."""
