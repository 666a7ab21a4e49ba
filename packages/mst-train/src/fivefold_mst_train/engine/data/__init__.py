"""Data: documents, tokens, blocks, batches."""
