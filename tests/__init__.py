"""A package, so that it is found before another package's tests."""
