"""Parts of the pytest plugin, one file each."""
