"""The contract between agent, controller and converters."""
