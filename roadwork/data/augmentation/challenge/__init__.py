"""The challenge pictures of NATIX StreetVision (Bittensor subnet 72), profile 2026-01."""
