"""A worked plug-in for nmt."""
