"""The network: M3SNet and its parts. Nothing in here knows of training."""
