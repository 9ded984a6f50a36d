"""What runs need around them: progress and models on disk."""
