"""Evaluation by the rules of the StreetVision validator: its challenge images and its reward."""
