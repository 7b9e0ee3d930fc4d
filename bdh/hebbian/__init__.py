"""Stage B: frozen weights, living synapses."""
