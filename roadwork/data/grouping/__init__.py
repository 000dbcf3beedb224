"""Groups rows by sequence, distance and near-duplicate images, and divides dense areas."""
