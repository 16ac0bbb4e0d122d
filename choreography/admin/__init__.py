"""Admin pages for the tables every service has."""
