"""A detector as a web service: photos in by HTTP, calibrated answers out, and a page for people."""
