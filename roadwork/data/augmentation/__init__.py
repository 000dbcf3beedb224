"""Augmentation of whole batches on the device, after the transfer and before normalisation."""
