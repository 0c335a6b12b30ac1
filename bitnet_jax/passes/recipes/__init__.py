"""The steps of recipes, one per file; `passes/recipe.py` applies them."""
