"""What can run a model beside this engine: a file each, in processes of their own."""
