"""From a trained dense network to a smaller one: low-rank factors in closed form, int8."""
