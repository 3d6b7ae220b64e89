"""The database: engine, transactions, notifications, and the embedded PostgreSQL. Nothing else opens a connection."""
