"""A resized copy of a dataset's images, made once, so that training does not decode 12 megapixels again and again."""
