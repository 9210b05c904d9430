"""From a recipe to weights. Lightning's Trainer runs the loop; what is ours is here."""
