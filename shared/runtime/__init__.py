"""The model runtime that agent and converters have in common: interpreter, pipeline, golden check."""
