"""How a Desired document is composed of intents."""
