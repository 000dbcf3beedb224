"""The exported detector: format, loading, bulk prediction, sites."""
