"""Reports: JSON, JUnit, CTRF, and a page for people."""
