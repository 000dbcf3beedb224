"""How groups are found: places, pictures, and dense cities in parts."""
