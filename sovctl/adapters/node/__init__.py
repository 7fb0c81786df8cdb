"""What a node shows of itself, and the small files it keeps."""
