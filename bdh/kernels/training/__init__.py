"""Training of `bdh` and `eq8` through fused kernels, group by group."""
