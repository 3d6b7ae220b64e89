"""The audit log: who logged in, what was changed of keys and users, and which calls were refused."""
