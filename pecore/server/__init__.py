"""What `pecore serve` serves."""
