"""The database: engine, column types, migrations and the unit of work."""
