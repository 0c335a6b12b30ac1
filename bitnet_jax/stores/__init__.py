"""Places that are no local path: the Hugging Face hub, object stores; a row and a file for each."""
