"""Where files are kept: uploaded ones, and those that an import reads."""
