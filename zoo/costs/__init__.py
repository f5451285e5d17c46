"""What a network costs, counted without running it; matching a budget; the table; the golden costs."""
