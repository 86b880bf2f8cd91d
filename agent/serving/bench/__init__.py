"""`litefleet-agent bench`: what a model costs on this device, raw and by every protocol."""
