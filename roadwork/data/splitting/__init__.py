"""How splits are made of groups, and how any splits are verified."""
