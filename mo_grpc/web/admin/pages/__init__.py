"""The pages of the admin, a module each."""
