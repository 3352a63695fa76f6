"""What holds the memory: the database, which is the truth, and the index of embeddings, which is derived from it."""
