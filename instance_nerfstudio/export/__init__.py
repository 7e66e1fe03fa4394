"""What `ns-export` writes of a trained instance field."""
