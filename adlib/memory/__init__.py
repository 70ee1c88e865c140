"""Banks of normal patches: how they are chosen, kept and searched."""
