"""Pages: the admin, the reference of the API, and the trap."""
