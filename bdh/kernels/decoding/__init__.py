"""Decoding of the BDH family from its synaptic state: constant time and memory per token, one or many streams."""
