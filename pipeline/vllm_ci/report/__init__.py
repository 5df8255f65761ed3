"""Reports: JSON, JUnit, CTRF, and an HTML page."""
