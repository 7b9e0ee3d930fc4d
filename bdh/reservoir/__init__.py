"""The recurrent reservoir: one step, many steps, truncated gradients, one GPU kernel."""
