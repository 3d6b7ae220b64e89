"""Webhooks: the events of the journal, sent to others."""
