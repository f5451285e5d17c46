"""Speed of a network: timing, training and inference speed, roofline, memory, execution plans."""
