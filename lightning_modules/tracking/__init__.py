"""Track runs with Weights & Biases or in a CSV file."""
