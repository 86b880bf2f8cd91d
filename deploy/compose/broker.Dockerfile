# Debian's mosquitto, on the configuration that the controller writes.
FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends mosquitto \
 && rm --recursive /var/lib/apt/lists/*
COPY broker.sh /usr/local/bin/broker
# The controller's user, whose files it reads: their key is nobody else's to read.
USER 10001
EXPOSE 8883
CMD ["broker", "/var/lib/litefleet/broker"]
