"""Images: from a spec, its locks and a commit to layers, an OCI layout and a runnable tree."""
