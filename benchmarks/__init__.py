"""Speed and memory benchmarks against common tools. Each command prints one table."""
