"""Street-image detectors that hold up somewhere else on the map."""

__version__ = "0.1.0"

if __name__ == "src":  # a user's `from src.data... import ...`
    from roadwork.src_alias import alias_package

    alias_package("src", "roadwork")
