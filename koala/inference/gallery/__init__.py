"""A page in a browser on which photos are coloured: `server` serves it, and nothing is kept."""
