"""The kinds of charts, a file each: numbers to SVG."""
