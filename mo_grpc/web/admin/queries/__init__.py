"""What the pages read: read-only SQL over every domain's tables, which is kept in this one place; changes are RPCs."""
