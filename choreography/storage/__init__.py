"""A service's own tables, and how they are read, locked and written."""
