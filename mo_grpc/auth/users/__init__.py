"""Users: who they are, their passwords and one-time codes, and how they log in."""
