"""What backs the README's figures for speed and quality."""
