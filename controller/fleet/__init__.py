"""Devices, sites, cohorts and enrolment."""
