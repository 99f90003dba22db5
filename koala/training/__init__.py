"""Training: the loop, what changes while it runs, what is logged, the doctor, ablations."""
