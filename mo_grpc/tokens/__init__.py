"""People's tokens: sessions, the JWTs that speak for them, and the keys that sign these (DESIGN §5)."""
