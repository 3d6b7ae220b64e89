"""Envoy: its configuration, certificates and process."""
