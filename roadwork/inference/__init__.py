"""From encoded images to what the network is given, and back to decisions."""
