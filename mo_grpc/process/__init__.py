"""Processes of a machine: children, locks, sockets and background tasks."""
