"""The test suites of the stages: pytest packages and their shared plugin; they only need the URL of a server."""
