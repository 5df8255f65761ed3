"""Models as OCI artifacts in the repository of the images: versions, aliases, evidence. Modules are imported by name."""
