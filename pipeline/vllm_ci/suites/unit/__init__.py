"""Checks inside an image that it matches its locks. Standard library and pytest only."""
