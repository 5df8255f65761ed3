"""Inside an image: it is what its locks say. Standard library and pytest only."""
