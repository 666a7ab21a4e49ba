"""Products of few rows with a matrix that was packed once."""
