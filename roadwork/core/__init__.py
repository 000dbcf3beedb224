"""What every other package builds on: errors, files, devices, progress, random streams."""
