"""How good a trained model is, and how sure that number is."""
