"""Public data sets on disk, turned into the project's layout."""
