"""What a training and evaluation program does, one module per subject."""
