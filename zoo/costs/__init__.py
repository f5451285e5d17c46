"""Cost of a network (parameters, MACs, activations), budget matching, the cost table, and the golden costs."""
