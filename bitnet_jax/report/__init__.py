"""Records to HTML, SVG and CSV; knows nothing of models."""
