"""Who may call, and what: the services of mo.auth.v1."""
