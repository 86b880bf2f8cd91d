"""How the device speaks with its controller: MQTT, HTTPS, enrolment and the outbox."""
