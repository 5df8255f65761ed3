"""From a commit to a signed, tested, traceable, live vLLM.

Importing the package loads nothing but this file: the builder and the suites must work where Dagger is not installed.
"""

__version__ = "0.1.0"
