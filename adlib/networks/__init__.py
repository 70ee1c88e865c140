"""Parts of networks that several methods build from."""
