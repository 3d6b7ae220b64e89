"""Users' tokens: sessions, the JWTs of each, and the keys that sign these."""
