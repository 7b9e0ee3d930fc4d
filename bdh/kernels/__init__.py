"""Triton and Gluon programs, each beside the plain torch that says what it computes."""
