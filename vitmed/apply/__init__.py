"""What a trained model does for a person."""
