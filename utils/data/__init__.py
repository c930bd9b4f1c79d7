"""From images on disk to training patches, degraded on the fly where there are no real pairs."""
