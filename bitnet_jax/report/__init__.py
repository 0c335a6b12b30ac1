"""Records to one page of HTML with its charts, readable without a network: knows no models."""
