"""Target: platform, instruction sets, mesh. detect.py asks the machine."""
