"""What a Transformer is made of: architectures, prunable units, the cost of what is kept, and plans."""
