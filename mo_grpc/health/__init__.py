"""Whether the server serves, as others ask."""
