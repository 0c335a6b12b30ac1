"""What needs several siblings: quickstart, compare, optimize."""
