"""The parts that several variants are made of."""
