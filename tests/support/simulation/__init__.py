"""A fleet in virtual time: the real planner and the real reducers, with everything between them lossy."""
