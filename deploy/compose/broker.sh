#!/bin/sh
# Run mosquitto on FOLDER/mosquitto.conf, and have it read its ACL again whenever the controller has written it:
# a device that was removed is cut off within seconds.
#
#   broker FOLDER
set -eu
folder=$1

acl_state() { stat --format '%i %Y' "$folder/acl"; }

seen=$(acl_state)
mosquitto -c "$folder/mosquitto.conf" &
broker=$!
trap 'kill -TERM "$broker"' TERM INT
while kill -0 "$broker" 2>/dev/null; do
  sleep 2 &
  wait "$!" || true # a signal ends the waiting early
  now=$(acl_state)
  if [ "$now" != "$seen" ]; then
    kill -HUP "$broker"
    seen=$now
  fi
done
wait "$broker"
