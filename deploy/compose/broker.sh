#!/bin/sh
# Run mosquitto on FOLDER/mosquitto.conf, and have it read its ACL and the applications' logins again whenever they have
# been written: a device that was removed is cut off within seconds.
#
#   broker FOLDER
set -eu
folder=$1

# The logins are there only where the broker lets applications in.
acl_state() { stat --format '%i %Y' "$folder/acl" "$folder/applications" 2>/dev/null || true; }

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
