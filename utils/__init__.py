"""What all programs need (here), and their four rooms: data, training, scoring, restoring."""
