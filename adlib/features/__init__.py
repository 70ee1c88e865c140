"""What frozen networks say of images, and where their weights come from."""
