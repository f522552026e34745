"""What an amount is: parameters, units or milliseconds, and which units to keep within it."""
