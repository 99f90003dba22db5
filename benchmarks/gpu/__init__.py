"""`make gpu`: what is right and how fast it is on the GPU of this machine, in some ten minutes; see `__main__`."""
