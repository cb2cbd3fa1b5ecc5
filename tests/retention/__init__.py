"""Months of jobs in minutes: rows made inside the database, and deleted by the bridge's own code."""
