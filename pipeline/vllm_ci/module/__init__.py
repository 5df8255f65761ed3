"""The Dagger module: the same verbs as the command line, as objects."""
