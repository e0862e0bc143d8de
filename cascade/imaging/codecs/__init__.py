"""One module for each format that needs more than a Pillow plugin."""
