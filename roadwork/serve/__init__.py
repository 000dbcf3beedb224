"""The detector as a web service: photos in by HTTP, calibrated predictions out, and a page for people."""
