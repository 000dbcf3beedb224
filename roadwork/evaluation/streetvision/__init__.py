"""A detector judged as the StreetVision validator judges it: its pictures, and its reward."""
