"""How fast a network is: timing, training and inference speed, roofline, memory, execution plans."""
