"""From an uploaded file to a source model in memory, one module for each SourceFormat."""
