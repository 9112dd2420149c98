"""The measurements behind the tables of report.md and README.md, one file each: `python -m benchmarks.NAME`."""
