"""Public data sets, one reader for each layout."""
