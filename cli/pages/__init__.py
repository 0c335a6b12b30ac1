"""What stands on the page of --report, a file per command: its record to sections and charts."""
